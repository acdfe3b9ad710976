"""What is known of an architecture that tests are held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import transformers
from torch import Tensor, nn

CLASSES = 12
LABELS = tuple(f"kind {i}" for i in range(CLASSES))


@dataclass(frozen=True)
class Architecture:
    """How to build a module, the `(rows, columns)` it takes, what it answers, and what is known of it.

    `settles`: its batch norms take the statistics of noise, since the signal of random weights explodes or dies.
    `classes`: how many class names it gets. `others`: what it takes beside so many images.

    `flips`: the input size at which strides are symmetric, so that symmetric kernels make the whole network commute
    with a horizontal flip; `None` where the architecture knows left from right.
    """

    build: Callable[[], nn.Module]
    size: tuple[int, int] = (96, 160)
    answers: Literal["classes", "embedding"] = "classes"
    output: Callable[[Any], Tensor] | None = None
    flips: tuple[int, int] | None = None
    settles: bool = False
    classes: int = CLASSES
    others: Callable[[int], dict[str, Tensor]] | None = None

    def beside(self, images: int) -> dict[str, Tensor]:
        """Return the other inputs of so many images."""
        return {} if self.others is None else self.others(images)


def hf(family: str, kind: str = "ForImageClassification", **config: Any) -> Callable[[], nn.Module]:
    """Return how to build a model of transformers from the entries of its configuration."""

    def build() -> nn.Module:
        return getattr(transformers, family + kind)(getattr(transformers, family + "Config")(**config))

    return build
