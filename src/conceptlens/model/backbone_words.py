"""What a model takes and gives, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from conceptlens.concepts.short_names import short_name
from conceptlens.model.answer import ANSWERS

if TYPE_CHECKING:
    from conceptlens.model.answer import Task
    from conceptlens.model.preprocess import Preprocess


def input_in_words(transform: object, preprocess: Preprocess | None) -> str:
    """Return what a model takes.

    Args:
        transform: What prepares photos; `None` where nothing does.
        preprocess: The same as steps that are known; `None` where they are not.
    """
    if transform is None:
        return "preprocessed tensors (no transform)"
    if preprocess is None:
        return f"photos, by {type(transform).__name__}; which part of them is seen is not known"
    rows, columns = preprocess.size
    return f"photos, {preprocess.crop_mode} to {rows} x {columns}, {preprocess.interpolation}"


def output_in_words(task: Task | None, class_names: Sequence[str] | None) -> str:
    """Return what a model gives, as far as it is known without a forward pass.

    Args:
        task: What it was trained for; `None` where nothing says so.
        class_names: What its classes are called; `None` where they have no names.
    """
    known = None if task is None else ANSWERS[task]
    if known is not None and (not known.rivals or known.task == "binary"):
        return known.words + (f": {', '.join(class_names[:3])}" if class_names else "")
    if not class_names:
        return "class scores without names" + ("" if task else "; one class of many is assumed, see task=")
    shown = [short_name(name) for name in class_names[:3]]
    return f"{len(class_names)} classes ({', '.join(shown)}{', …' if len(class_names) > 3 else ''})"
