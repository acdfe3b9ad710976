"""Every metric that a suite measures, by name: its direction, range, chance level, source and needs."""

from __future__ import annotations

from conceptlens.benchmark.concept_order import CHANNEL_METRICS
from conceptlens.benchmark.masked_heads import AT_PEAKS
from conceptlens.benchmark.published_metrics import PUBLISHED_METRICS
from conceptlens.benchmark.retrieval_task import RETRIEVAL_METRICS
from conceptlens.metrics.bottleneck_metrics import BOTTLENECK_METRICS
from conceptlens.metrics.faithfulness_table import FAITHFULNESS_METRICS, FURTHER_FAITHFULNESS_METRICS
from conceptlens.metrics.map_mask import MAP_MASK_METRICS
from conceptlens.statistics.score import Metric

SUITE_METRICS: dict[str, Metric] = {
    **FAITHFULNESS_METRICS,
    **FURTHER_FAITHFULNESS_METRICS,
    **MAP_MASK_METRICS,
    **PUBLISHED_METRICS,
    **CHANNEL_METRICS,
    **RETRIEVAL_METRICS,
    **BOTTLENECK_METRICS,
    AT_PEAKS.name: AT_PEAKS,
}
