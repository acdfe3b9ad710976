"""Metrics, sorted by what they need: a map and a mask (`locate`); and how sure their means are (`spread`)."""

from conceptlens.metric.locate import (
    LOCATED,
    area,
    best_iou,
    hit,
    iou,
    locate,
    peak,
    pixel_precision,
    pointing_energy,
    pointing_game,
    ranked_area,
    ranked_area_corrected,
)
from conceptlens.metric.score import Metric, Score
from conceptlens.metric.spread import Interval, difference, interval, macro

__all__ = [
    "LOCATED",
    "Interval",
    "Metric",
    "Score",
    "area",
    "best_iou",
    "difference",
    "hit",
    "interval",
    "iou",
    "locate",
    "macro",
    "peak",
    "pixel_precision",
    "pointing_energy",
    "pointing_game",
    "ranked_area",
    "ranked_area_corrected",
]
