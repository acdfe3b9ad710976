"""Metrics, sorted by what they need: a map and a mask (`locate`)."""

from conceptlens.metric.locate import area, peak, pointing_energy

__all__ = ["area", "peak", "pointing_energy"]
