"""Any vision model, with what it takes to look inside: layers, preprocessing, class names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from conceptlens.io.errors import InputError, near
from conceptlens.io.images import fingerprint, read_image, upright
from conceptlens.model.encoders import ClassifierText, VisionLanguage
from conceptlens.model.layout import Grid, find_grid, prefix_tokens
from conceptlens.model.observation import Observation, observe
from conceptlens.model.preprocess import Preprocess
from conceptlens.model.probe import Anatomy, anatomy
from conceptlens.record import WHOLE, ImageInfo

Photo = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True, eq=False)
class Backbone:
    """A PyTorch vision module, left as it is, with what it takes to ask it questions.

    - `module`: any `nn.Module` that takes `image colour rows columns`; `torch.compile` and `DataParallel` wrappers
      are taken off.
    - `layers`: names to observe; where empty, one is chosen by rule (see `probe.anatomy`) and reported in every
      record.
    - `transform`: from an RGB photo to an input tensor; a `Preprocess` also says which part of the photo is seen.
    - `class_names`: class names in the order of the logits.
    - `output`: from the module's raw output to `image class`; by default tensors, `.logits` and the like are found.
    - `embeds`: the output is an embedding (a CLIP tower), not class scores.
    - `classifier`: the final linear layer; found where not named.
    - `text`: the text encoder that shares the model's space; a stand-in is built where a classifier has class names.
    - `prefix_tokens`, `channels_last`: how to read token and four-axis outputs; found where not given.
    """

    module: nn.Module
    name: str = "module"
    layers: tuple[str, ...] = ()
    transform: Callable[[Image.Image], Tensor] | None = None
    class_names: tuple[str, ...] | None = None
    output: Callable[[Any], Tensor] | None = None
    embeds: bool = False
    classifier: str | None = None
    prefix_tokens: int | None = None
    channels_last: bool | None = None
    input_size: tuple[int, int] = (224, 224)
    text: VisionLanguage | None = None

    def __post_init__(self) -> None:
        """Take wrappers off, and check the names."""
        object.__setattr__(self, "module", unwrap(self.module))
        object.__setattr__(self, "layers", _names(self.layers))
        for name in self.layers:
            self.check_layer(name)
        if self.class_names is not None:
            object.__setattr__(self, "class_names", tuple(self.class_names))
        if self.prefix_tokens is None:
            object.__setattr__(self, "prefix_tokens", prefix_tokens(self.module))

    def __repr__(self) -> str:
        """Name, default layers as far as they are known without a forward pass, and what it answers."""
        known = self.layers or self.__dict__.get("default_layers", ())
        answers = (
            "an embedding"
            if self.embeds
            else f"{len(self.class_names)} classes"
            if self.class_names
            else "unnamed classes"
        )
        where = f", at {' and '.join(known)}" if known else ""
        return f"Backbone({self.name}: {type(self.module).__name__}{where}, {answers})"

    @property
    def parameter(self) -> Tensor:
        """One floating parameter: it tells the device and the precision of inputs."""
        found = next((p for p in self.module.parameters() if p.is_floating_point()), None)
        return torch.zeros(()) if found is None else found

    @cached_property
    def anatomy(self) -> Anatomy:
        """What one probing forward pass on noise tells of the module; made when first needed."""
        rows, columns = self.transform.size if isinstance(self.transform, Preprocess) else self.input_size
        noise = torch.randn(2, _colours(self.module), rows, columns, generator=torch.Generator().manual_seed(0))
        images = noise.to(self.parameter.device, self.parameter.dtype)
        return anatomy(self.module, images, self._any_vector, self.prefix_tokens, self.channels_last)

    @cached_property
    def default_layers(self) -> tuple[str, ...]:
        """The layers observed when none are named."""
        return self.layers or (self.anatomy.default,)

    @cached_property
    def classifier_name(self) -> str | None:
        """The final linear layer, whose input is the embedding; `None` where the model has none."""
        if self.embeds:
            return None
        return self.classifier or self.anatomy.classifier

    @property
    def classifier_module(self) -> nn.Linear | None:
        """The final linear layer itself."""
        found = self.module.get_submodule(self.classifier_name) if self.classifier_name else None
        return found if isinstance(found, nn.Linear) else None

    @cached_property
    def language(self) -> VisionLanguage:
        """The pair that reads texts for this model: its own, or the stand-in built from its classifier and names."""
        if self.text is not None:
            return self.text
        linear = self.classifier_module
        if linear is None or self.class_names is None or len(self.class_names) != linear.out_features:
            raise InputError(
                f"{self.name} has no text encoder, and none can be built without a linear classifier and class names; "
                "use an open_clip or CLIP model, or give Backbone(..., text=...)"
            )
        return ClassifierText(linear.weight.detach(), self.class_names, self.name)

    def observe(
        self,
        photos: Photo | Tensor | Sequence[Photo],
        layers: str | Iterable[str] | None = None,
        titles: Sequence[str] | None = None,
    ) -> Observation:
        """Run the model once on one or several photos, or on a tensor `image colour rows columns`, and keep `layers`.

        Photos may be paths, PIL images or `height width 3` arrays of uint8. Tensors are taken as already
        preprocessed. `titles` name the photos in records; files name themselves.
        """
        names = _names(layers) if layers is not None else self.default_layers
        for name in names:
            self.check_layer(name)
        if isinstance(photos, Tensor):
            return self._observe_tensor(photos, names)
        if not isinstance(photos, (*Photo.__args__, list, tuple)):
            raise InputError(f"a {type(photos).__name__} was given; expected a path, a PIL image, an array or a tensor")
        several = [photos] if isinstance(photos, Photo) else list(photos)
        if not several:
            raise InputError("no photo was given; give a path, a PIL image, an array, a tensor or a list of them")
        known = titles or [_title(photo, i) for i, photo in enumerate(several)]
        named = [(title, _load(photo)) for title, photo in zip(known, several, strict=True)]
        images = torch.stack([self._input(photo) for _, photo in named])
        image_info = tuple(ImageInfo(n, fingerprint(p), *p.size, self._box(p)) for n, p in named)
        images = images.to(self.parameter.device, self.parameter.dtype)
        return observe(self, images, names, image_info, tuple(photo for _, photo in named))

    def _observe_tensor(self, images: Tensor, layers: tuple[str, ...]) -> Observation:
        if images.ndim != 4 or not images.is_floating_point():
            raise InputError(
                f"a tensor of shape {tuple(images.shape)} and type {images.dtype} was given; expected floating "
                "image colour rows columns, already preprocessed (add the batch axis with tensor[None])"
            )
        rows, columns = images.shape[2:]
        image_info = tuple(ImageInfo(f"tensor[{i}]", "", columns, rows) for i in range(len(images)))
        images = images.to(self.parameter.device, self.parameter.dtype)
        return observe(self, images, layers, image_info, (None,) * len(images))

    def read(self, output: Any, entered: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return `(class scores, embedding)` of a raw output; `entered` is what went into the classifier."""
        tensor = self.output(output) if self.output else answer_tensor(output)
        flat = tensor if tensor is not None and tensor.ndim == 2 else None
        if self.embeds:
            return None, flat
        vector = entered if entered is not None and entered.ndim == 2 else None
        return flat, vector

    def grid_of(self, shape: Sequence[int], image: tuple[int, int, int], layer: str) -> Grid:
        """Return how to read the output of `layer`; the error names the layer and those with a grid."""
        try:
            return find_grid(tuple(shape), image, self.prefix_tokens, self.channels_last)
        except InputError as error:
            raise InputError(f"layer '{layer}' of {self.name}: {error}") from None

    def class_index(self, name: str | int) -> int:
        """Return the index of a class given by name or index; near names are offered where there is none."""
        if isinstance(name, int):
            return name
        if self.class_names is None:
            raise InputError(
                f"'{name}' was asked of {self.name}, whose classes have no names; give an index or class_names="
            )
        wanted, lower = name.strip().lower(), [label.lower() for label in self.class_names]
        whole = [i for i, label in enumerate(lower) if wanted == label]
        parts = [i for i, label in enumerate(lower) if wanted in [p.strip() for p in label.split(",")]]
        found = whole or parts
        if len(found) > 1:
            raise InputError(f"'{name}' names classes {', '.join(map(str, found))} of {self.name}; give the index")
        if found:
            return found[0]
        raise InputError(f"no class '{name}' in {self.name}; near names: {near(name, self.class_names)}")

    def class_name(self, index: int) -> str:
        """Return the name of a class, or `class 7` where classes have no names."""
        return self.class_names[index] if self.class_names and index < len(self.class_names) else f"class {index}"

    def to(self, *place: Any) -> Backbone:
        """Return this backbone with its module moved, as `nn.Module.to` does it."""
        try:
            moved = self.module.to(*place)
        except (RuntimeError, AssertionError) as error:  # torch's answers to a device it does not know or have
            reason = str(error).splitlines()[0]
            raise InputError(f"{self.name} cannot be moved to {place[0]}: {reason}; use cpu, cuda or mps") from None
        return dataclasses.replace(self, module=moved)

    def _input(self, photo: Image.Image) -> Tensor:
        if self.transform is None:
            raise InputError(
                f"{self.name} has no preprocessing, so photos cannot be read; give Backbone(..., transform=...) "
                "or observe an already preprocessed tensor"
            )
        tensor = self.transform(photo)
        if tensor.ndim != 3:
            raise InputError(f"transform gave shape {tuple(tensor.shape)}; expected colour rows columns")
        return tensor

    def _box(self, photo: Image.Image) -> tuple[float, float, float, float]:
        return self.transform.box(photo.size) if isinstance(self.transform, Preprocess) else WHOLE

    def _any_vector(self, output: Any) -> Tensor:
        tensor = self.output(output) if self.output else answer_tensor(output)
        if tensor is None:
            raise InputError(f"{self.name} put out {type(output).__name__}; say how to read it with output=")
        return tensor

    def check_layer(self, name: str) -> None:
        """Raise `InputError` where the module has no such layer."""
        names = [n for n, _ in self.module.named_modules() if n]
        if name not in names:
            raise InputError(f"no layer '{name}' in {self.name}; near names: {near(name, names)}")


def unwrap(module: nn.Module) -> nn.Module:
    """Take `torch.compile`, `DataParallel` and `DistributedDataParallel` off; refuse what hooks cannot enter."""
    if not isinstance(module, nn.Module):
        raise InputError(f"a {type(module).__name__} was given; expected a torch.nn.Module")
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError("a TorchScript module was given, whose layers cannot be watched; give the original nn.Module")
    inner = getattr(module, "_orig_mod", None)
    if inner is None and isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner = module.module
    return module if inner is None else unwrap(inner)


def _colours(module: nn.Module) -> int:
    """How many channels the images of a module have, as its first convolution tells."""
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


def answer_tensor(output: Any) -> Tensor | None:
    """Return the tensor a model's output is about: itself, its logits, an image embedding or a pooled output."""
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "image_embeds", "pooler_output", "last_hidden_state"):
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    if isinstance(output, (tuple, list)) and output:
        return answer_tensor(output[0])
    return None


def _names(layers: str | Iterable[str]) -> tuple[str, ...]:
    return (layers,) if isinstance(layers, str) else tuple(layers)


def _title(photo: Photo, index: int) -> str:
    return str(photo) if isinstance(photo, (str, Path)) else f"photo[{index}]"


def _load(photo: Photo) -> Image.Image:
    if isinstance(photo, (str, Path)):
        return read_image(photo)
    if isinstance(photo, Image.Image):
        return upright(photo)
    array = np.asarray(photo)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(
            f"an array of shape {array.shape} and type {array.dtype} was given; expected uint8 height width 3"
        )
    return Image.fromarray(array)
