"""From what people have at hand (paths, photos, arrays, tensors) to photos or to one input tensor."""

from __future__ import annotations

import functools
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.io.images import as_photo, fingerprint
from conceptlens.model.image_entry import colours_of, input_weight
from conceptlens.model.preprocess import Preprocess
from conceptlens.model.torchvision_transform import read_transform
from conceptlens.model.transformed_photo import transformed
from conceptlens.record import WHOLE, ImageInfo, hold_weakly

if not TYPE_CHECKING:
    from conceptlens.model.module_lock import cached_property
else:  # what readers of the source know it as
    from functools import cached_property

    from jaxtyping import Float

Photo = str | Path | Image.Image | np.ndarray

_WANTED = "expected a path, a PIL image, an array, a tensor, a list of them, or a batch of a loader"


@dataclass(frozen=True, eq=False)
class ReadyPhoto:
    """One photo as a model reads it, so that it can be observed without decoding or scaling anything.

    Attributes:
        image: The input tensor.
        info: The record of the photo.
        larger: The same at other input sizes (`resized`), by rows and columns, as far as they are known to be needed.
        photo: The upright photo; `None` where it is needed no more, so that it takes no memory.
    """

    image: Float[Tensor, "colour rows columns"]
    info: ImageInfo
    larger: Mapping[tuple[int, int], Float[Tensor, "colour rows columns"]] = field(default_factory=dict)
    photo: Image.Image | None = None


class PhotoInput(ABC):
    """The half of a `Backbone` that reads photos: its transform, and what is known of it."""

    module: nn.Module
    name: str
    transform: Callable[[Image.Image], Tensor] | None

    @property
    def parameter(self) -> Tensor:
        """A floating weight that has the device and the precision of inputs (see `input_weight`)."""
        found = input_weight(self.module)
        return torch.zeros((), device="cpu") if found is None else found

    @cached_property
    def preprocess(self) -> Preprocess | None:
        """How photos are resized, cropped and normalised: `transform` itself or what a torchvision transform says.

        `None` where there is no transform, or one that does something else: it is then not known which part of a
        photo the model sees.
        """
        return self.transform if isinstance(self.transform, Preprocess) else read_transform(self.transform)

    def known_preprocess(self, consequence: str) -> Preprocess:
        """Return `preprocess`, or refuse.

        Args:
            consequence: What is not possible without, for the message, such as "its input size cannot be set".

        Raises:
            InputError: There is no transform, or it is not known what it does to a photo.
        """
        if self.preprocess is None:
            what = "no transform" if self.transform is None else "a transform of its own"
            raise InputError(
                f"{self.name} has {what}, so {consequence}; "
                "give Backbone(..., transform=cl.Preprocess(size, mean, std))"
            )
        return self.preprocess

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise `InputError` where a photo of `size` (width, height) cannot be scaled and cropped, as far as is known.

        Args:
            size: Width and height of the upright photo in pixels.
        """
        if self.preprocess is not None:
            self.preprocess.box(size)

    def read_photo(self, photo: Image.Image) -> Float[Tensor, "colour rows columns"]:
        """Return the input tensor of an upright RGB photo.

        Raises:
            InputError: The model has no transform, it cannot take a photo of this size, it fails, or it gives something
                else than `colour rows columns`.
        """
        if self.transform is None:
            raise InputError(
                f"{self.name} has no transform, so photos cannot be read; give Backbone(..., transform=...) "
                "or observe an already preprocessed tensor"
            )
        self.check_size(photo.size)
        return transformed(self.transform, photo)

    def image_info(self, name: str, size: tuple[int, int], fingerprint: str = "") -> ImageInfo:
        """Return the record of a photo of `size` (width, height): which part of it the model sees.

        Args:
            name: The file's path, or a title.
            size: Width and height of the upright photo in pixels.
            fingerprint: That of the photo's pixels.
        """
        known = self.preprocess
        return ImageInfo(name, fingerprint, *size, WHOLE if known is None else known.box(size), known is not None)

    def read_batch(
        self, given: Any, titles: Sequence[str] | None
    ) -> tuple[
        Float[Tensor, "image colour rows columns"],
        tuple[ImageInfo, ...],
        tuple[Image.Image | None, ...],
        tuple[Callable[[], Image.Image | None], ...],
    ]:
        """Return the input tensor of photos or preprocessed tensors, a record of each image, and the photos.

        The upright photos come last but one, weak references to them and to the PIL images given last.

        Args:
            given: As `photos_or_tensor` takes it.
            titles: What the images are called in records; by default files name themselves.

        Raises:
            InputError: An image cannot be read, or the photos give inputs of several sizes.
            InputTypeError: Something else than images was given.
        """
        ready = photos_or_tensor(given, colours_of(self.module))
        if isinstance(ready, Tensor):
            _check_values(ready)
            rows, columns = ready.shape[2:]
            called = _titles(titles, [f"tensor[{i}]" for i in range(len(ready))])
            none = (None,) * len(ready)
            return ready.detach(), tuple(ImageInfo(name, "", columns, rows) for name in called), none, hold_weakly(none)
        called = _titles(titles, [_title(photo, i) for i, photo in enumerate(ready)])
        photos = tuple(as_photo(photo) for photo in ready)
        images = stacked([self.read_photo(photo) for photo in photos])
        named = zip(called, photos, strict=True)
        info = tuple(self.image_info(name, one.size, fingerprint(one)) for name, one in named)
        return images, info, photos, hold_weakly(photos, ready)


def check_transform(transform: object) -> None:
    """Raise `InputTypeError` where a transform is neither `None` nor a function that can read a photo.

    Args:
        transform: What was given as `Backbone(transform=)`.
    """
    if transform is None:
        return
    made = transform.func if isinstance(transform, functools.partial) else transform
    if isinstance(made, type):  # such as `weights.transforms`, which makes a transform
        how = "weights.transforms()" if transform is not made else f"{made.__name__}(...)"
        raise InputTypeError(
            f"transform is the class {made.__name__}; expected a transform made from it, so call it: transform={how}"
        )
    weights = callable(getattr(transform, "transforms", None))  # an entry of an enumeration, which can be called
    if callable(transform) and not weights:
        return
    if weights:
        what, how = "the weights", "transform=weights.transforms()"
    elif isinstance(transform, (list, tuple)):
        what, how = f"a {type(transform).__name__}", "transform=torchvision.transforms.Compose(steps)"
    else:
        what, how = f"a {type(transform).__name__}", "such as cl.Preprocess((224, 224))"
    raise InputTypeError(f"transform is {what}; expected a function from a PIL image to a tensor: {how}")


def _check_values(images: Tensor) -> None:
    """Refuse a batch of no image, and values that are not finite, whose answers would look like any others."""
    if not images.numel():
        raise InputError(f"a tensor of shape {tuple(images.shape)} was given; expected at least one image")
    if not bool(images.isfinite().all()):
        raise InputError("the images hold NaN or infinite values; give finite ones")


def photos_or_tensor(given: Any, colours: int) -> list[Photo] | Tensor:
    """Return photos that are still to be prepared, or a floating tensor `image colour rows columns` that is ready.

    Bytes (uint8) are photos; floating values are taken as already preprocessed.

    Args:
        given: A path, a PIL image, a numpy array or a torch tensor of one image or of a batch, or a list of them.
        colours: How many colours the model's inputs have, which distinguishes `colour rows columns` from
            `rows columns colour` in arrays. Tensors always have their colours first.

    Raises:
        InputError: Nothing was given, or the axes fit no reading or two of them.
        InputTypeError: Something of another type was given.
    """
    if isinstance(given, (str, Path, Image.Image)):
        return [given]
    if isinstance(given, Tensor):
        return _from_tensor(given, colours)
    if isinstance(given, np.ndarray):
        return _from_array(given, colours)
    if isinstance(given, DataLoader):
        raise InputTypeError(
            "a DataLoader was given; loop over it: for images, labels in loader: observation = model.observe(images)"
        )
    if not isinstance(given, (list, tuple)):
        raise InputTypeError(f"a {type(given).__name__} was given; {_WANTED}")
    if not given:
        raise InputError("no photo was given; give a path, a PIL image, an array, a tensor or a list of them")
    return _from_list(given, colours)


def _title(photo: Photo, index: int) -> str:
    """Return what a photo is called in records: its path, or its index in the batch."""
    return str(photo) if isinstance(photo, (str, Path)) else f"photo[{index}]"


def _from_list(given: Sequence[Any], colours: int) -> list[Photo] | Tensor:
    parts = [photos_or_tensor(one, colours) for one in given if not isinstance(one, (list, tuple))]
    if len(parts) != len(given):
        raise InputTypeError(f"a list of lists was given; {_WANTED}")
    tensors = [part for part in parts if isinstance(part, Tensor)]
    photos = [photo for part in parts if not isinstance(part, Tensor) for photo in part]
    if not tensors:
        return photos
    if photos:
        raise InputError("photos and preprocessed tensors are mixed in one list; give one kind")
    shapes = {tuple(part.shape[1:]) for part in tensors}
    if len(shapes) > 1:
        raise InputError(f"tensors of shapes {sorted(shapes)} were given in one list; give one size, or photos")
    return torch.cat(tensors)


def _from_tensor(tensor: Tensor, colours: int) -> list[Photo] | Tensor:
    if tensor.layout != torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
        raise InputError(f"a tensor of layout {kind} was given; expected a dense one: tensor.to_dense()")
    if tensor.is_meta:
        raise InputError("a tensor on the meta device was given, which holds no values; give one with pixels")
    about = f"a tensor of shape {tuple(tensor.shape)} and type {tensor.dtype}"
    _check_axes(tensor.ndim, about)
    if tensor.ndim not in (3, 4) or not (tensor.is_floating_point() or tensor.dtype == torch.uint8):
        raise InputError(
            f"{about} was given; expected floating image colour rows columns, already preprocessed, or uint8 photos "
            "in the same order"
        )
    bytes_ = tensor.dtype == torch.uint8
    batch = tensor if tensor.ndim == 4 else tensor[None]
    fits = batch.shape[1] in (1, 3) if bytes_ else batch.shape[1] == colours
    if not fits and batch.shape[3] in ((1, 3) if bytes_ else (colours,)):
        order = "0, 3, 1, 2" if tensor.ndim == 4 else "2, 0, 1"
        raise InputError(f"{about} was given with its colours last; give them first: tensor.permute({order})")
    if not fits and (bytes_ or tensor.ndim == 3):
        wanted = "1 or 3" if bytes_ else str(colours)
        raise InputError(f"{about} was given; expected {wanted} colours first: (image) colour rows columns")
    if not bytes_:
        return _with_pixels(batch, about)
    return [_photo(one.permute(1, 2, 0).cpu().numpy()) for one in batch]


def _check_axes(axes: int, about: str) -> None:
    """Refuse what has a third axis of space, or one of time."""
    if axes == 5:
        raise InputError(
            f"{about} was given, a batch of volumes or videos, and maps are made of images alone; give slices or "
            "frames to a network of images: image colour rows columns"
        )


def _from_array(array: np.ndarray, colours: int) -> list[Photo] | Tensor:
    about = f"an array of shape {array.shape} and type {array.dtype}"
    _check_axes(array.ndim, about)
    if array.ndim not in (3, 4) or not (array.dtype == np.uint8 or array.dtype.kind == "f"):
        raise InputError(
            f"{about} was given; expected uint8 (image) height width 3, or floating values, already preprocessed"
        )
    batch = array if array.ndim == 4 else array[None]
    known = (1, 3) if array.dtype == np.uint8 else (colours,)
    first, last = batch.shape[1] in known, batch.shape[3] in known
    if first == last:
        what = "colours first and colours last" if first else "neither colours first nor colours last"
        raise InputError(
            f"{about} fits {what}; give one image as colour height width or height width colour, "
            f"with {' or '.join(map(str, known))} colours, or a torch tensor"
        )
    if array.dtype == np.uint8:
        return [_photo(one.transpose(1, 2, 0) if first else one) for one in batch]
    return _with_pixels(torch.from_numpy(np.ascontiguousarray(batch if first else batch.transpose(0, 3, 1, 2))), about)


def _with_pixels(batch: Tensor, about: str) -> Tensor:
    """Return a batch as it is; refused where its images have no rows, columns or colours."""
    if 0 in batch.shape[1:]:
        raise InputError(f"{about} was given, which has no pixels; expected at least one row and one column")
    return batch


def _photo(pixels: np.ndarray) -> Image.Image:
    """Return `height width colour` bytes as a photo; one colour is grey."""
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)).convert("RGB")


def stacked(images: Sequence[Tensor]) -> Tensor:
    """Return input tensors of one size as a batch.

    Raises:
        InputError: They differ in size.

    Args:
        images: Input tensors.
    """
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise InputError(
            f"transform gave tensors of {' and '.join(map(str, sorted(shapes)))} for the photos of one batch; "
            "crop to one size, or observe them one at a time"
        )
    return torch.stack(list(images))


def _titles(titles: Sequence[str] | None, own: Sequence[str]) -> Sequence[str]:
    if titles is None:
        return own
    if not isinstance(titles, (str, Sequence)):
        raise InputTypeError(
            f"titles are given as {type(titles).__name__}; expected a list with one text for each image"
        )
    if isinstance(titles, str) or len(titles) != len(own):
        given = "one text" if isinstance(titles, str) else f"{len(titles)} titles"
        raise InputError(f"{given} was given for {len(own)} images; give a list with one title for each")
    wrong = [title for title in titles if not isinstance(title, (str, Path))]
    if wrong:
        raise InputTypeError(f"a title is {wrong[0]!r}; expected one text for each image")
    return [str(title) for title in titles]
