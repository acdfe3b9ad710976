"""What a metric or a statistic returns: values, and where they are defined; how a table describes a metric."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

import numpy as np
import torch
from torch import Tensor
from typing_extensions import TypeVar

from conceptlens.io.errors import InputError, InputTypeError, near

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Values = TypeVar("Values", bound="Tensor | np.ndarray", default=Tensor)
# What a metric can need, by the word that `Metric.needs` has for it.
NEEDS: dict[str, str] = {
    "map": "a map of the question",
    "second map": "another map of the same question",
    "mask": "the pixels that the question is about",
    "any score": "the network's score of the question in any unit, such as a logit or a probability",
    "probability": "the network's probability of the question's class",
    "all probabilities": "the network's probabilities of all classes",
    "class": "which class the question is about",
    "rival class": "a class that it stands against",
    "group": "a group of classes",
    "rival group": "a group that it stands against",
    "explain again": "a function that explains other images, or another network, in the same way",
    "weights": "the network itself, whose weights can be changed",
    "random labels": "the map of a head that was fitted to shuffled labels",
    "concept places": "the regions or the channels of several concepts",
    "contributions": "how much each concept counts",
    "parts": "masks of parts",
    "keypoints": "where parts are, as points",
    "sizes": "the sizes of the photos",
    "activations": "how much of each concept the network sees",
    "concept labels": "which concepts a photo shows",
    "vectors": "vectors of concepts, and which concept each is of",
    "logits": "scores of all classes before the softmax",
    "class labels": "the class of each photo",
    "head fit": "train photos, to which a head is fitted anew",
}
# What the rounding of a network's scores may add to the ends of a metric's range.
ROUNDING_OF_RANGE = 1e-3


@dataclass(frozen=True, eq=False, repr=False)
class Score(Generic[Values]):
    """Values of a metric or a statistic, and where it is defined at all.

    A metric of maps has tensors with the axes image and question; a statistic of vectors has arrays whose axes are
    labels, pairs of labels, or rows.

    Attributes:
        values: The values; 0 where the metric does not apply, never NaN.
        applies: Bool of the same shape; False where there is nothing to measure, such as a mask without a pixel.
        labels: The names along every axis, for statistics of labels; empty for other axes.
        fill: What stood in the place of removed pixels, for metrics that remove any; empty for others.

    Raises:
        InputError: The shapes differ, or a value is not finite, or not 0 where the metric does not apply.
    """

    values: Values
    applies: Values
    labels: tuple[str, ...] = ()
    fill: str = ""

    def __post_init__(self) -> None:
        """Check that both have one shape, and that no value hides a missing one."""
        tensor = isinstance(self.values, Tensor)
        if self.values.shape != self.applies.shape or self.applies.dtype != (torch.bool if tensor else np.bool_):
            raise InputError(
                f"a score needs values and a bool applies of one shape; got {tuple(self.values.shape)} and "
                f"{tuple(self.applies.shape)} of {self.applies.dtype}"
            )
        finite = torch.isfinite(self.values) if isinstance(self.values, Tensor) else np.isfinite(self.values)
        if not bool(finite.all()) or bool((self.values[~self.applies] != 0).any()):
            raise InputError("a score's values must be finite, and 0 where it does not apply; say so in applies")

    @property
    def count(self) -> int:
        """How many values apply."""
        return int(self.applies.sum())

    def mean(self) -> float | None:
        """Return the mean over the values that apply; `None` where there is none.

        Returns:
            The mean in the unit of the values, or `None`.
        """
        if not self.count:
            return None
        if isinstance(self.values, Tensor):
            return float(self.values.double().sum()) / self.count
        return float(self.values[self.applies].mean())

    def of(self, *index: int | str) -> float | None:
        """Return one value; `None` where the metric does not apply.

        Args:
            *index: An index or a label for each axis, such as image and question, or two labels; 0 for axes left out.

        Returns:
            The value, or `None`.

        Raises:
            InputError: No label has this name.
        """
        where = tuple(_index(key, self.labels) for key in index) + (0,) * (self.values.ndim - len(index))
        return float(self.values[where]) if bool(self.applies[where]) else None

    def pairs(self) -> tuple[Float[Any, "pair"], Int[Any, "pair"]]:
        """Return the values that apply, and the index of the image of each: what `bootstrap_mean` takes.

        Returns:
            `values[pair]` and `images[pair]`, arrays or tensors as the score holds them.
        """
        if isinstance(self.applies, Tensor):
            return self.values[self.applies], self.applies.nonzero()[:, 0]
        return self.values[self.applies], self.applies.nonzero()[0]

    def __repr__(self) -> str:
        mean, total = self.mean(), int(np.prod(self.values.shape))
        found = "applies nowhere" if mean is None else f"mean {mean:.4f} over {self.count} of {total}"
        filled = f", fill {self.fill}" if self.fill else ""
        return f"Score({found}, shape {tuple(self.values.shape)}{filled})"


@dataclass(frozen=True)
class Metric:
    """One line of a table of metrics; one of your own stands in the same tables.

    Attributes:
        name: Its key in JSON and on pages, and its column in files.
        title: Its name for readers.
        compute: Returns a `Score`; the table says what it takes.
        higher_is_better: Whether a higher value is better.
        low: The lowest possible value.
        high: The highest possible value.
        chance: What a map that knows nothing gets, with `r` the mask's share of the image.
        source: The paper it is from.
        needs: What it is computed from, in the words of `NEEDS`; empty where that is not said.

    Raises:
        InputError: The name is empty, the range has no lowest and highest value, or `needs` holds an unknown word.
        InputTypeError: The name is no text, or `compute` no function.

    Examples:
        >>> mine = cl.metrics.Metric("mean_inside", "mean inside", mean_inside, True, 0, 1, "r", "my notes")
    """

    name: str
    title: str
    compute: Callable[..., Score]
    higher_is_better: bool
    low: float
    high: float
    chance: str
    source: str
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what tables and files rely on."""
        if not isinstance(self.name, str):
            raise InputTypeError(f"a metric's name is given as {type(self.name).__name__}; expected a text")
        if not self.name.strip():
            raise InputError("a metric needs a name, which tables and files call it by")
        if not callable(self.compute):
            raise InputTypeError(
                f"compute of metric '{self.name}' is a {type(self.compute).__name__}; expected a function that "
                "returns a Score"
            )
        if math.isnan(self.low) or math.isnan(self.high) or not self.low < self.high:
            raise InputError(
                f"the range of metric '{self.name}' is {self.low} to {self.high}; expected its lowest and its highest "
                "value, infinite where there is none"
            )
        unknown = [word for word in self.needs if word not in NEEDS]
        if isinstance(self.needs, str) or unknown:
            word = self.needs if isinstance(self.needs, str) else unknown[0]
            known = near(str(word), NEEDS, "known")
            raise InputError(f"metric '{self.name}' is said to need {word!r}; expected a tuple of words; {known}")

    def measure(self, *given: Any, **settings: Any) -> Score:
        """Return what `compute` returns, and refuse what is no score of this metric.

        Args:
            *given: What the metric takes.
            **settings: Its settings.

        Returns:
            The score.

        Raises:
            InputTypeError: `compute` returned something else than a `Score`.
            InputError: A value lies outside the metric's range, or as the metric itself raises.
        """
        score = self.compute(*given, **settings)
        if not isinstance(score, Score):
            raise InputTypeError(
                f"metric '{self.name}' returned a {type(score).__name__}; expected a Score, such as "
                "cl.metrics.Score(values, applies)"
            )
        if score.count:
            values = score.values[score.applies]
            low, high = float(values.min()), float(values.max())
            if low < self.low - ROUNDING_OF_RANGE or high > self.high + ROUNDING_OF_RANGE:
                raise InputError(
                    f"metric '{self.name}' gave values from {low:.4g} to {high:.4g}; its range is said to be "
                    f"{self.low:g} to {self.high:g}, so give it what that is of, such as probabilities and not logits"
                )
        return score

    def chance_of(self, share: str) -> str:
        """Return what a map that knows nothing gets, in words.

        Args:
            share: What `r`, the mask's share of the image, is called, or its number.
        """
        return re.sub(r"\br\b", lambda found: share, self.chance)

    def described(self) -> dict[str, Any]:
        """Return what the metric is, as JSON's own types; an end without a bound is `None`."""
        ends = [end if math.isfinite(end) else None for end in (self.low, self.high)]
        return {
            "name": self.name,
            "title": self.title,
            "higher_is_better": self.higher_is_better,
            "range": ends,
            "chance": self.chance,
            "source": self.source,
            "needs": list(self.needs),
        }


def _index(key: int | str, labels: tuple[str, ...]) -> int:
    if not isinstance(key, str):
        return key
    if key not in labels:
        raise InputError(f"no label '{key}'; {near(key, labels, 'labels', 5)}")
    return labels.index(key)
