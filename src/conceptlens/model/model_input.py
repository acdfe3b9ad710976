"""What a module is called with: images, and whatever else its forward takes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float

# Names under which batches hold images, the first one found is taken, and names of what a model is trained on.
IMAGE_KEYS = ("pixel_values", "images", "image", "inputs", "input", "x", "img")
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
        keyword: The name under which the module takes the images; `None` passes them as its first argument.
        others: Inputs by name. A tensor whose first axis has one entry per image belongs to the images, row by row;
            everything else is passed on as it is.
    """

    images: Float[Tensor, "image colour rows columns"]
    keyword: str | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    def call(self, module: nn.Module) -> Any:
        """Run `module` on these inputs."""
        images = self.images.clone() if self.images.is_inference() else self.images
        if self.keyword is None:
            return module(images, **self.others)
        return module(**{self.keyword: images}, **self.others)

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
        """Where the module fails within at a shape, name inputs that do not fit the images, or the images' own shape.

        Any other failure is the module's own and is raised as it is.

        Args:
            name: What the model is called.
            hint: What to do where the images have a shape that the module does not take.
        """
        try:
            yield
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            if isinstance(error, (InputError, torch.OutOfMemoryError)) or not SHAPE_WORDS.search(str(error)):
                raise
            count = len(self.images)
            rows = {n: len(v) for n, v in self.others.items() if isinstance(v, Tensor) and v.ndim and len(v) != count}
            why = next(iter(str(error).splitlines()), type(error).__name__)
            if not rows:
                shape = " x ".join(map(str, self.images.shape))
                raise InputError(
                    f"{name} cannot be run on images of shape {shape}, image x colour x rows x columns ({why}); {hint}"
                ) from error
            given = " and ".join(f"{name} with {number} rows" for name, number in rows.items())
            raise InputError(
                f"{given} was given for {count} image{'s' * (count != 1)}, which the module cannot use "
                f"({why}); give one row for each image"
            ) from error

    def check(self, module: nn.Module, name: str) -> None:
        """Raise `InputError` where `module.forward` cannot be called so; `name` is what the model is called."""
        given = [object()] if self.keyword is None else []
        words: dict[str, Any] = dict.fromkeys([*([] if self.keyword is None else [self.keyword]), *self.others])
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
        others = {k: v for k, v in batch.items() if k in IMAGE_KEYS or (k in takes and k not in LABEL_KEYS)} | others
        batch = None
    keys = [key for key in IMAGE_KEYS if key in others]
    if batch is not None:
        doubled = [key for key in keys if key == "pixel_values" or key == next(iter(takes), None)]
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
