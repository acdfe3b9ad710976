"""Questions over a store of explained photos: what carries classes, what is confused, shortcuts, drift."""

from __future__ import annotations

from conceptlens.summary.data_summary import DataSummary as DataSummary
from conceptlens.summary.data_summary import summarize as summarize
