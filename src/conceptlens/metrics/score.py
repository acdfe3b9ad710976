"""What a metric returns, and how a table describes a metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from conceptlens.io.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Score:
    """A metric's value for every image and question, and where the metric applies at all.

    - `values[image question]`: 0 where the metric does not apply; never NaN.
    - `applies[image question]`: False where the question has no answer, such as a mask without a pixel.
    """

    values: Float[Tensor, "image question"]
    applies: Bool[Tensor, "image question"]

    def __post_init__(self) -> None:
        """Check that both speak of the same images and questions, and that no value hides a missing one."""
        if self.values.ndim != 2 or self.values.shape != self.applies.shape or self.applies.dtype != torch.bool:
            raise InputError(
                f"a score needs values and a bool applies of one shape, image question; got {tuple(self.values.shape)} "
                f"and {tuple(self.applies.shape)} of {self.applies.dtype}"
            )
        if not bool(torch.isfinite(self.values).all()) or bool((self.values[~self.applies] != 0).any()):
            raise InputError("a score's values must be finite, and 0 where it does not apply; say so in applies")

    @property
    def count(self) -> int:
        """How many pairs of image and question the metric applies to."""
        return int(self.applies.sum())

    def mean(self) -> float | None:
        """Return the mean over the pairs that the metric applies to; None where there is none."""
        return float(self.values.double().sum()) / self.count if self.count else None

    def of(self, image: int, question: int = 0) -> float | None:
        """Return one value; None where the metric does not apply."""
        return float(self.values[image, question]) if bool(self.applies[image, question]) else None

    def pairs(self) -> tuple[Float[Tensor, "pair"], Int[Tensor, "pair"]]:
        """Return the values that apply, and the index of the image each is from: what `interval` asks for."""
        return self.values[self.applies], self.applies.nonzero()[:, 0]

    def __repr__(self) -> str:
        images, questions = self.values.shape
        mean = self.mean()
        told = "applies nowhere" if mean is None else f"mean {mean:.4f} over {self.count} of {self.values.numel()}"
        return f"Score({told}: {images} images x {questions} questions)"


@dataclass(frozen=True)
class Metric:
    """One line of a table of metrics.

    - `compute`: returns a `Score`; what it takes is said by its own table.
    - `low`, `high`: the ends of its range.
    - `chance`: what a map that knows nothing gets, with `r` the mask's share of the image.
    - `source`: where it is from.
    """

    name: str
    title: str
    compute: Callable[..., Score]
    higher_is_better: bool
    low: float
    high: float
    chance: str
    source: str
