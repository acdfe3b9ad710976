"""The mean of a metric's values as torchmetrics keeps it: a sum and a number, which processes add."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torchmetrics
from torch import Tensor

from conceptlens.io.errors import InputTypeError

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.statistics.score import Metric


class MeanScore(torchmetrics.Metric):
    """A `Metric` as a `torchmetrics.Metric`; made by `as_torchmetric`.

    Args:
        metric: The metric.
        settings: What its function is given beside the inputs of `update`.
    """

    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, metric: Metric, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.metric, self.settings = metric, dict(settings)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @property
    def higher_is_better(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether a higher value is better, as `MetricTracker` asks."""
        return self.metric.higher_is_better

    @property
    def plot_lower_bound(self) -> float | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The lowest possible value, `None` where there is none."""
        return self.metric.described()["range"][0]

    @property
    def plot_upper_bound(self) -> float | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The highest possible value, `None` where there is none."""
        return self.metric.described()["range"][1]

    def update(self, *given: Any, **named: Any) -> None:
        """Add the values of one batch.

        Args:
            *given: What the metric's function takes, such as maps and masks.
            **named: The same by name.

        Raises:
            InputTypeError: Something is missing, or too much.
        """
        settings = {**self.settings, **named}
        signature = inspect.signature(self.metric.compute)
        try:
            signature.bind(*given, **settings)
        except TypeError as error:
            name, wanted = self.metric.name, ", ".join(signature.parameters)
            raise InputTypeError(f"metric '{name}' was not given what it takes, {wanted}: {error}") from None
        score = self.metric.measure(*given, **settings)
        self.total += float(torch.as_tensor(score.values).double().sum())
        self.count += score.count

    def compute(self) -> Float[Tensor, ""]:
        """Return the mean of all values so far, NaN where there is none."""
        return self.total / self.count
