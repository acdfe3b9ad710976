"""The one record every method returns, and where it comes from."""

from conceptlens.record.explanation import Explanation
from conceptlens.record.source import WHOLE, ImageInfo, Source, hold_weakly

__all__ = ["WHOLE", "Explanation", "ImageInfo", "Source", "hold_weakly"]
