"""Class names: as many as the model has classes, and the index of a class by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conceptlens.io.errors import InputError, InputTypeError, near_names
from conceptlens.model.answer import Task


def is_class(value: Any) -> bool:
    """Say whether `value` is one class: a name, or an integer of Python, numpy or torch; booleans are not."""
    if isinstance(value, Tensor):
        return value.ndim == 0 and is_integer(value.dtype)
    return isinstance(value, (str, int, np.integer)) and not isinstance(value, bool)


def is_integer(dtype: torch.dtype) -> bool:
    """Say whether tensors of a type hold integers; booleans are none."""
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


def class_name_texts(given: Any) -> tuple[str, ...]:
    """Return class names as a tuple.

    Args:
        given: One text for each class, in the order of the scores; or a dictionary from the index of each class, 0 to
            the last, to its text.

    Raises:
        InputTypeError: It is one text, no sequence, or holds something else than texts.
        InputError: A dictionary leaves an index out.
    """
    if isinstance(given, Mapping):
        given = _in_order(given)
    if isinstance(given, (str, bytes, Set)) or not isinstance(given, Iterable):
        raise InputTypeError(
            f"class_names is a {type(given).__name__}; expected a list with one text for each class, in the order of "
            "the scores"
        )
    names = tuple(given)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise InputTypeError(f"class_names hold {wrong[0]!r}; expected one text for each class")
    return tuple(map(str, names))


def class_names_of(task: Task | None, given: Any) -> tuple[str, ...]:
    """Return class names as a tuple; of two classes from one logit, one name stands for both: "not ill" and "ill".

    Args:
        task: What the model was trained for, where it is known.
        given: As in `class_name_texts`.

    Raises:
        InputTypeError: It is one text, no sequence, or holds something else than texts.
        InputError: A dictionary leaves an index out.
    """
    names = class_name_texts(given)
    return (f"not {names[0]}", names[0]) if task == "binary" and len(names) == 1 else names


def _in_order(names: Mapping[Any, Any]) -> list[Any]:
    """Return the values of a dictionary by the indices that are its keys."""
    indices = [key for key in names if isinstance(key, (int, np.integer)) and not isinstance(key, bool)]
    if len(indices) < len(names):
        raise InputTypeError(
            "class_names is a dict whose keys are no indices; expected a list of texts in the order of the scores, or "
            "{0: name, 1: name, ...}"
        )
    missing, others = sorted(set(range(len(names))) - set(indices)), sorted(set(indices) - set(range(len(names))))
    if missing:
        raise InputError(
            f"class_names has no name for class {missing[0]} and one for class {others[-1]}; a dict names every index, "
            "from 0 to the last"
        )
    return [names[index] for index in range(len(names))]


def checked_class_names(class_names: Sequence[str], classes: int, name: str) -> tuple[str, ...]:
    """Return `class_names` where there is one for each of the `classes` of the model called `name`.

    Args:
        class_names: One name for each class, in the order of the logits.
        classes: How many classes the model has.
        name: What the model is called, for the message.

    Raises:
        InputError: There is another number of names; two for one number are those of two classes from one logit.
    """
    two_of_one_logit = classes == 1 and len(class_names) == 2
    if isinstance(class_names, str) or not (two_of_one_logit or len(class_names) == classes):
        given = "one string" if isinstance(class_names, str) else f"{len(class_names)} class names"
        raise InputError(
            f"{given} given for the {classes} classes of {name}; give one name per class, "
            "or pretrained=False or weights= for a model with classes of your own"
        )
    return tuple(class_names)


def class_index(name: Any, class_names: Sequence[str] | None, model: str) -> int:
    """Return the index of a class given by name or index.

    Args:
        name: A whole class name or one of its synonyms, in any case; or an integer of Python, numpy or torch.
        class_names: The names of all classes, where they have names.
        model: What the model is called, for messages.

    Raises:
        InputError: No class or several have that name; near names are offered.
        InputTypeError: `name` is neither a text nor an integer.
    """
    if not is_class(name):
        raise InputTypeError(f"a class is given as {type(name).__name__}; expected a name or an integer")
    if not isinstance(name, str):
        return int(name)
    if class_names is None:
        raise InputError(f"'{name}' is no class of {model}: its classes have no names; give an index or class_names=")
    wanted, lower = name.strip().lower(), [label.lower() for label in class_names]
    whole = [i for i, label in enumerate(lower) if wanted == label]
    parts = [i for i, label in enumerate(lower) if wanted in [part.strip() for part in label.split(",")]]
    found = whole or parts
    if len(found) > 1:
        raise InputError(f"'{name}' names classes {', '.join(map(str, found))} of {model}; give the index")
    if found:
        return found[0]
    near = near_names(name, class_names)
    index = f"; give an index, 0 to {len(class_names) - 1}" if near.startswith("no name") else ""
    raise InputError(f"no class '{name}' in {model}; {near}{index}")
