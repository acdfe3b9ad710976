"""Noise on photos, for the question how firm an embedding is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from conceptlens.io.errors import InputError

Kind = Literal["none", "gaussian", "salt_and_pepper"]


@dataclass(frozen=True)
class Noise:
    """Noise of one `kind` and its `amount`.

    - `gaussian`: a normal deviate is added to each colour of each pixel, its deviation `amount` of the full range.
    - `salt_and_pepper`: a share `amount` of the pixels is made white or black.
    """

    kind: Kind = "none"
    amount: float = 0.0

    def __post_init__(self) -> None:
        """Check both."""
        if self.kind not in get_args(Kind):
            raise InputError(f"noise is '{self.kind}'; expected {', '.join(get_args(Kind))}")
        if not 0 <= self.amount <= 1 or (self.kind == "none") != (self.amount == 0):
            raise InputError(
                f"noise {self.kind} of {self.amount}; give an amount from 0 to 1, such as gaussian:0.1 or "
                "salt_and_pepper:0.05"
            )

    @classmethod
    def parse(cls, text: str) -> Noise:
        """Return the noise named as `KIND:AMOUNT`, such as `gaussian:0.1`; `none` is none."""
        kind, _, amount = text.partition(":")
        try:
            share = float(amount or 0)
        except ValueError:
            raise InputError(f"noise '{text}' has no number; give KIND:AMOUNT, such as gaussian:0.1") from None
        return cls(kind, share)  # pyright: ignore[reportArgumentType]

    def on(self, photo: Image.Image, seed: tuple[int, ...]) -> Image.Image:
        """Return the photo with noise drawn by `seed`; the same photo where there is none."""
        if self.kind == "none":
            return photo
        generator = np.random.default_rng(seed)
        values = np.asarray(photo.convert("RGB"), np.float64)
        if self.kind == "gaussian":
            noisy = values + generator.normal(0, 255 * self.amount, values.shape)
        else:
            drawn = generator.random(values.shape[:2])
            noisy = np.where((drawn < self.amount)[..., None], 255.0 * (drawn < self.amount / 2)[..., None], values)
        return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))
