"""Maps to pictures: only here is a map scaled, enlarged or coloured."""

from conceptlens.render.overlays import DIM, colour_bar, number, overlay, panel
from conceptlens.render.scale import Scale, alpha_table, colour, colour_table, scale_of
from conceptlens.render.upsampling import WHOLE, Box, upsample, upsample_in_box

__all__ = [
    "DIM", "WHOLE", "Box", "Scale", "alpha_table", "colour", "colour_bar", "colour_table", "number", "overlay", "panel",
    "scale_of", "upsample", "upsample_in_box",
]  # fmt: skip
