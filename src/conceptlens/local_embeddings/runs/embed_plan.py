"""Settings of an embedding run: everything that decides its rows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image

from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.local_embeddings.modes import FitSettings
from conceptlens.model.input_sizes import resized
from conceptlens.model.preprocess import Preprocess

if TYPE_CHECKING:
    from conceptlens.data.masked_set import MaskedSet
    from conceptlens.model.backbone import Backbone

NoiseKind = Literal["none", "gaussian", "salt_and_pepper"]
EmbedCropMode = Literal["center", "squash", "published"]
# LoCE's own preparation: 640 x 480, bicubic, values from 0 to 1, whatever the model was trained with.
PUBLISHED = Preprocess((480, 640), (0.0,) * 3, (1.0,) * 3, "bicubic", crop_mode="squash")


@dataclass(frozen=True)
class Noise:
    """Noise added to photos, to measure how much embeddings change.

    Args:
        kind: `gaussian` adds a normal deviate to each colour of each pixel; `salt_and_pepper` makes pixels white or
            black at random.
        amount: Standard deviation as a share of the full range, or share of pixels; 0 to 1.
    """

    kind: NoiseKind = "none"
    amount: float = 0.0

    def __post_init__(self) -> None:
        """Check kind and amount."""
        if self.kind not in get_args(NoiseKind):
            raise InputError(f"noise is '{self.kind}'; expected {', '.join(get_args(NoiseKind))}")
        if not 0 <= self.amount <= 1 or (self.kind == "none") != (self.amount == 0):
            raise InputError(
                f"noise {self.kind} of {self.amount}; give an amount from 0 to 1, such as gaussian:0.1 or "
                "salt_and_pepper:0.05"
            )

    @classmethod
    def parse(cls, text: str) -> Noise:
        """Return the noise named as `KIND:AMOUNT`, such as `gaussian:0.1`; `none` for no noise."""
        kind, _, amount = text.partition(":")
        try:
            share = float(amount or 0)
        except ValueError:
            raise InputError(f"noise '{text}' has no number; give KIND:AMOUNT, such as gaussian:0.1") from None
        return cls(kind, share)  # pyright: ignore[reportArgumentType]

    def apply(self, photo: Image.Image, seed: tuple[int, ...]) -> Image.Image:
        """Return the photo with noise drawn by `seed`, or the photo itself where there is none."""
        if self.kind == "none":
            return photo
        generator = np.random.default_rng(seed)
        values = np.asarray(photo.convert("RGB"), np.float64)
        if self.kind == "gaussian":
            noisy = values + generator.normal(0, 255 * self.amount, values.shape)
        else:
            chance = generator.random(values.shape[:2])
            noisy = np.where((chance < self.amount)[..., None], 255.0 * (chance < self.amount / 2)[..., None], values)
        return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class EmbedPlan:
    """How a run embeds a data set.

    Args:
        layers: Names of layers, all read from one forward pass.
        fit_settings: Mode of the embedding and its parameters.
        min_area: Least share of the photo that a mask covers, 0 to 1; 0 leaves out empty masks only.
        control: Whether each vector is also fitted to a mask of another photo, for its selectivity.
        n_scale_photos: Photos, evenly spaced in the set, over which the channels' root mean square is taken.
        batch_size: Photos in one forward pass and in one write to the store.
        input_size: Rows and columns of the model's input, in pixels; None keeps the model's own.
        crop_mode: How a photo is brought to the input size: `squash` scales the whole photo, `center` scales its
            short side and crops, `published` is LoCE's 640 x 480 pixels, squashed and not normalised. None keeps the
            model's own.
        noise: Noise added to photos, drawn by `seed`.
        max_photos: End after so many photos; None takes all.

    Raises:
        InputError: A number or a name is out of its range.
    """

    layers: tuple[str, ...]
    fit_settings: FitSettings = field(default_factory=lambda: FitSettings("mean_difference"))
    min_area: float = 0.0
    control: bool = True
    n_scale_photos: int = 32
    batch_size: int = 8
    input_size: tuple[int, int] | None = None
    crop_mode: EmbedCropMode | None = None
    noise: Noise = field(default_factory=Noise)
    seed: int = 0
    max_photos: int | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        counts = {
            "batch_size": self.batch_size, "n_scale_photos": self.n_scale_photos, "max_photos": self.max_photos or 1,
        }  # fmt: skip
        wrong = [f"{name}={value}" for name, value in counts.items() if value < 1]
        wrong += [f"min_area={self.min_area}"] if not 0 <= self.min_area < 1 else []
        if self.input_size is not None and not all(0 < side <= 4096 for side in self.input_size):
            wrong.append(f"input_size={self.input_size}")
        wrong += [f"crop_mode={self.crop_mode!r}"] if self.crop_mode not in (None, *get_args(EmbedCropMode)) else []
        if wrong:
            raise InputError(
                f"{', '.join(wrong)} was given; expected counts of at least 1, min_area from 0 to below 1, input_size "
                f"from 1 to 4096 pixels, crop_mode {', '.join(get_args(EmbedCropMode))}"
            )

    def prepared(self, model: Backbone) -> Backbone:
        """Return the model with the preparation of photos that the plan asks for."""
        if self.input_size is None and self.crop_mode is None:
            return model
        known = "its input size and crop mode cannot be set"
        transform = PUBLISHED if self.crop_mode == "published" else model.known_preprocess(known)
        if self.crop_mode in ("center", "squash"):
            transform = replace(transform, crop_mode=self.crop_mode)
        return replace(model, transform=transform if self.input_size is None else resized(transform, self.input_size))

    def settings(self, model: Backbone, data: MaskedSet) -> dict[str, Any]:
        """Return what a run is known by: all that decides its rows, the model's weights, the set's choices.

        `batch_size` and `max_photos` are left out: a run may be resumed with less memory, or continued.
        """
        values = {name: value for name, value in asdict(self).items() if name not in ("batch_size", "max_photos")}
        if model.preprocess is not None and self.crop_mode is None:
            values["crop_mode"] = model.preprocess.crop_mode
        values |= {
            "mode": self.fit_settings.mode, "model": model.name, "weights": weights_fingerprint(model.module),
            "data": data.name, "masks": getattr(data, "choices", {}), **({"autocast": True} if model.autocast else {}),
        }  # fmt: skip
        return json.loads(json.dumps(values))  # tuples become lists, as they come back from a store
