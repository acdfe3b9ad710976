"""Any metric as one of torchmetrics: for training loops, and for runs in several processes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.io.torchvision_operators import mend_torchvision
from conceptlens.statistics.score import Metric

if TYPE_CHECKING:
    from conceptlens.metrics.mean_score import MeanScore


def as_torchmetric(metric: Metric, **settings: Any) -> MeanScore:
    """Return a metric as a `torchmetrics.Metric`, whose value is the mean over all maps that it applies to.

    It keeps the sum of the values and their number, so that batches of any size, and processes, give the same mean.

    Args:
        metric: A line of a table, such as `cl.metrics.MAP_MASK_METRICS["iou"]`, or a `Metric` of your own.
        **settings: What its function is given beside the inputs of `update`, such as `fill="blur"`.

    Returns:
        `update` takes what the metric's function takes: maps and masks, or maps and `ScoredImages`. `compute` returns
        a float64 tensor without axes, NaN where the metric applied to nothing.

    Raises:
        InputError: torchmetrics is not installed, or the metric's function has no such setting.
        InputTypeError: `metric` is no `Metric`.

    Examples:
        >>> inside = cl.metrics.as_torchmetric(cl.metrics.MAP_MASK_METRICS["pointing_energy"])
        >>> inside.update(maps, masks)
        >>> inside.compute()
    """
    if not isinstance(metric, Metric):
        raise InputTypeError(
            f"a {type(metric).__name__} was given as the metric; expected a cl.metrics.Metric, such as "
            "cl.metrics.MAP_MASK_METRICS['iou']"
        )
    taken = inspect.signature(metric.compute).parameters
    unknown = [name for name in settings if name not in taken]
    if unknown and not any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        raise InputError(f"metric '{metric.name}' has no setting '{unknown[0]}'; it takes: {', '.join(taken)}")
    mend_torchvision()  # torchmetrics imports torchvision
    try:
        from conceptlens.metrics.mean_score import MeanScore
    except ModuleNotFoundError as error:
        if error.name != "torchmetrics":
            raise
        raise InputError("as_torchmetric needs torchmetrics: pip install 'conceptlens[torchmetrics]'") from None
    return MeanScore(metric, settings)
