"""What a module is called with: images, and whatever else its forward takes."""

from __future__ import annotations

import dis
import inspect
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float

# Names under which batches hold images, the first one found is taken, and names of what a model is trained on.
IMAGE_KEYS = ("pixel_values", "images", "image", "inputs", "input", "x", "img", "data")
PIXELS = IMAGE_KEYS[0]
LABEL_KEYS = ("labels", "label", "targets", "target", "y")
# What torch, timm and transformers say where a tensor has another shape than a module takes.
SHAPE_WORDS = re.compile(
    r"\b(shapes?|sizes?|dim|dimensions?|channels?|height|width|resolution|elements)\b", re.IGNORECASE
)


@dataclass(frozen=True, eq=False)
class ModelInput:
    """Images and the other inputs of one call of a module.

    Args:
        images: The input tensor `image colour rows columns`.
        keyword: The name under which the module takes the images; `None` passes them as its first argument, or by name
            to a module that takes nothing by its place or texts first.
        others: Inputs by name. A tensor whose first axis has one entry per image belongs to the images, row by row;
            everything else is passed on as it is.
    """

    images: Float[Tensor, "image colour rows columns"]
    keyword: str | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    def call(self, module: nn.Module) -> Any:
        """Run `module` on these inputs.

        Raises:
            InputError: It takes something before the images, such as texts, and fails without.
        """
        images = self.images.clone()  # a module may write into its input, which is shown and run again
        keyword = self._keyword(module)
        if keyword is None:
            return module(images, **self.others)
        try:
            return module(**{keyword: images}, **self.others)
        except (TypeError, ValueError, AttributeError) as error:
            first = next(iter(inspect.signature(module.forward).parameters.values()))
            if first.name in (keyword, *self.others) or first.kind is not first.POSITIONAL_OR_KEYWORD:
                raise
            why = f"{type(error).__name__}: {error}"
            raise InputError(
                f"the module takes {first.name} before {keyword}, and without it it fails ({why}); "
                f"give it by name, as observe(images, {first.name}=...), or take the part of it that sees images alone"
            ) from error

    def _keyword(self, module: nn.Module) -> str | None:
        """Return the name that images are passed under; `None` where they are the first argument."""
        return self.keyword or _keyword_of_images(inspect.signature(module.forward).parameters, self.others)

    def with_images(self, images: Tensor) -> ModelInput:
        """Return the same call with as many other images."""
        return replace(self, images=images)

    def of_one(self, image: int, images: Float[Tensor, "variant colour rows columns"]) -> ModelInput:
        """Return the call with variants of one image: each comes with the other inputs of that image.

        Args:
            image: The index of the image.
            images: Its variants.
        """
        count = len(self.images)

        def rows(value: Any) -> Any:
            if isinstance(value, Tensor) and value.ndim and len(value) == count:
                return value[image : image + 1].expand(len(images), *value.shape[1:])
            if isinstance(value, dict):
                return {key: rows(part) for key, part in value.items()}
            if isinstance(value, (list, tuple)):
                return type(value)([rows(part) for part in value])
            return value

        return replace(self, images=images, others={name: rows(value) for name, value in self.others.items()})

    @contextmanager
    def explaining_failures(self, name: str, hint: str) -> Iterator[None]:
        """Where torch fails within the module, say so in a sentence: which inputs do not fit the images, or its reason.

        What the module's own code raises about anything else than shapes is raised as it is, and so is any other
        failure.

        Args:
            name: What the model is called.
            hint: What to do where the images have a shape that the module does not take.
        """
        try:
            yield
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # torch raises nearly anything
            why = next(iter(str(error).splitlines()), "") or type(error).__name__
            shaped = isinstance(error, (RuntimeError, ValueError, AssertionError, IndexError))
            if not (shaped and SHAPE_WORDS.search(str(error))):
                if not _is_torch_failure(error):
                    raise
                kind = type(error).__name__
                raise InputError(
                    f"{name} cannot be run on images of shape {self._shape_in_words()} ({kind}: {why}); "
                    "run the module itself on such images, and mend what it says"
                ) from error
            count = len(self.images)
            rows = {n: len(v) for n, v in self.others.items() if isinstance(v, Tensor) and v.ndim and len(v) != count}
            if not rows:
                raise InputError(
                    f"{name} cannot be run on images of shape {self._shape_in_words()} ({why}); "
                    f"{_channels_hint(why) or hint}"
                ) from error
            given = " and ".join(f"{name} with {number} rows" for name, number in rows.items())
            raise InputError(
                f"{given} was given for {count} image{'s' * (count != 1)}, which the module cannot use "
                f"({why}); give one row for each image"
            ) from error

    def _shape_in_words(self) -> str:
        return f"{' x '.join(map(str, self.images.shape))}, image x colour x rows x columns"

    def check(self, module: nn.Module, name: str) -> None:
        """Raise `InputError` where `module.forward` cannot be called so; `name` is what the model is called."""
        keyword = self._keyword(module)
        given = [object()] if keyword is None else []
        words: dict[str, Any] = dict.fromkeys([*([] if keyword is None else [keyword]), *self.others])
        try:
            inspect.signature(module.forward).bind(*given, **words)
        except TypeError as error:
            known = ", ".join(inspect.signature(module.forward).parameters)
            raise InputError(
                f"{name} cannot be called so ({error}); its forward takes {known}: give what it needs by name, "
                "such as observe(images, mask=...)"
            ) from None


def split_inputs(batch: Any, named: Mapping[str, Any], module: nn.Module) -> tuple[Any, str | None, dict[str, Any]]:
    """Return the images of a batch, the keyword to pass them under, and the module's other inputs.

    Args:
        batch: Images alone, `(images, labels)` as a loader gives them, a dictionary, or `None`.
        named: Inputs given by keyword; all of them but the images are passed on.
        module: Whose `forward` says which names it takes. What a dictionary holds besides is left out, and so are
            labels.

    Raises:
        InputError: There are no images, or they are given twice.
    """
    takes = inspect.signature(module.forward).parameters
    others = dict(named)
    keys_given: list[Any] = list(named)
    if isinstance(batch, Mapping):
        keys_given = [*batch, *named]
        others = {k: v for k, v in batch.items() if k in IMAGE_KEYS or _is_taken(k, takes)} | others
        batch = None
    keys = [key for key in dict.fromkeys([*IMAGE_KEYS, *list(takes)[:1]]) if key in others]
    if batch is not None:
        place = _keyword_of_images(takes, {}) or next(iter(takes), None)
        doubled = [key for key in keys if key in (PIXELS, place)]
        if doubled:
            raise InputError(f"images are given twice, as the first argument and as {doubled[0]}=; give them once")
        return batch, None, others
    if not keys:
        given = f"only {', '.join(map(str, keys_given))}" if keys_given else "nothing"
        raise InputError(
            f"{given} was given; expected photos or a tensor first, or under one of {', '.join(IMAGE_KEYS)}"
        )
    open_ended = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    twice = [key for key in keys[1:] if key not in takes and not open_ended]
    if twice:
        raise InputError(f"images are given twice, as {keys[0]} and as {twice[0]}; give one of them")
    images = others.pop(keys[0])
    return images, keys[0] if keys[0] in takes else None, others


def _is_taken(key: Any, takes: Mapping[str, inspect.Parameter]) -> bool:
    """Whether an entry of a batch is passed on: labels only where the module cannot be called without them."""
    return key in takes and (key not in LABEL_KEYS or takes[key].default is inspect.Parameter.empty)


def _keyword_of_images(takes: Mapping[str, inspect.Parameter], others: Mapping[str, Any]) -> str | None:
    """Return the name that images are passed under where `forward` does not take them as its first argument."""
    if PIXELS in list(takes)[1:] and next(iter(takes)) not in IMAGE_KEYS and PIXELS not in others:
        return PIXELS  # models of texts and images take the texts first
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    if not takes or any(one.kind not in kinds for one in takes.values()):
        return None
    empty = inspect.Parameter.empty
    needed = [n for n, one in takes.items() if one.kind is kinds[0] and one.default is empty and n not in others]
    usual = [key for key in IMAGE_KEYS if key in takes and key not in others]
    return usual[0] if usual else needed[0] if len(needed) == 1 else None


def _is_torch_failure(error: BaseException) -> bool:
    """Whether an error comes from torch, in a call of a module, and not from a `raise` of the module's own code."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not any(frame.f_code is ModelInput.call.__code__ for frame, _ in frames):
        return False
    last, traced = frames[-1][0], error.__traceback__
    while traced is not None and traced.tb_next is not None:
        traced = traced.tb_next
    raised = traced is not None and last.f_code.co_code[traced.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return not raised or Path(last.f_code.co_filename).is_relative_to(Path(torch.__file__).parent)


def _channels_hint(reason: str) -> str | None:
    """Return what to do where torch says how many channels a convolution takes, or that it takes volumes."""
    if "conv3d" in reason or re.search(r"weight of size \[\d+(, \d+){4}\]", reason):
        return "it takes volumes or videos, and maps are made of images alone"
    if "conv1d" in reason or re.search(r"weight of size \[\d+(, \d+){2}\]", reason):
        return "it takes sequences, and maps are made of images alone"
    found = re.search(r"expected input\[.*?\] to have (\d+) channels?, but got (\d+)", reason)
    if found is None or found[1] == found[2]:
        return None
    if found[1] == "1":
        return "it takes grey images: transform=cl.Preprocess(size, mean=(0.5,), std=(0.5,)) makes them of photos"
    if found[1] == "3":
        return "it takes images of 3 colours: give photos, or tensors with three colours"
    return f"it takes images of {found[1]} channels: give them as floating tensors, image x {found[1]} x rows x columns"


def first_of_batch(batch: Any) -> Any:
    """Return the images of `(images, labels)`, a batch or a single sample of a data set; anything else as it is.

    Raises:
        InputError: There are two batches of images, and it is not clear which is meant.
    """
    if not isinstance(batch, (list, tuple)) or len(batch) < 2:
        return batch
    first, rest = batch[0], batch[1:]
    axes = getattr(first, "ndim", None)
    if axes == 4:
        same = [one for one in rest if getattr(one, "ndim", None) == 4 and one.shape[1:] == first.shape[1:]]
        if same:
            raise InputError(f"{1 + len(same)} batches of images were given; observe one of them, such as batch[0]")
        return first
    if len(batch) == 2 and not isinstance(first, (str, int)) and _is_label(rest[0]):
        return first
    return batch


def _is_label(value: Any) -> bool:
    """Whether a value is what a data set gives beside an image: a class, a vector of them, or a description."""
    if isinstance(value, (int, float, Mapping)):
        return True
    return getattr(value, "ndim", None) in (0, 1) and not isinstance(value, Sequence)
