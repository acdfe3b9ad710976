"""Every method's maps of drawn scenes by a trained network: what cards show and tests compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

import conceptlens as cl
from conceptlens.data.drawn_scene import Scene, Shape, draw_scene
from drawn_network import CELLS, EARLY, SIDE, load_bottleneck, load_branch

FILE = Path(__file__).parents[1] / "tests" / "golden" / "maps.safetensors"
# Of a map's peak: half precision keeps 0.0005 of it, the rest is room for another processor's order of sums.
TOLERANCE = 2e-3


@dataclass(frozen=True)
class Case:
    """A scene, what is asked for in it, and what Finer-CAM holds it against."""

    scene: Scene
    asked: str
    rival: str

    @property
    def mask(self) -> np.ndarray:
        """The pixels of what is asked for, `[row column]`."""
        return {**self.scene.masks, **self.scene.kinds}[self.asked]


def golden_cases() -> list[Case]:
    """Return three scenes of three shapes: a kind among others, one beside its look-alike, and a colour twice."""
    corners = ((0.27, 0.3), (0.72, 0.27), (0.6, 0.74))
    drawn = [
        ((("ring", "green"), ("square", "blue"), ("triangle", "red")), "ring", "disc"),
        ((("square", "yellow"), ("stripes", "yellow"), ("disc", "cyan")), "square", "stripes"),
        ((("triangle", "red"), ("disc", "blue"), ("cross", "red")), "red", "magenta"),
    ]
    return [
        Case(draw_scene([Shape(*what, at, 0.2) for what, at in zip(shapes, corners, strict=True)], SIDE, seed), *words)
        for seed, (shapes, *words) in enumerate(drawn)
    ]


# From a model and a case to its map, with one image and one question.
Method = Callable[[cl.Backbone, Case], cl.Explanation]


def golden_methods() -> dict[str, Method]:
    """Return every method that has a card: all rules, then those of concepts, by the name of their card."""
    rules = {name: _by_rule(name) for name in cl.RULES}
    return {**rules, "finer_cam": _finer_cam, "ce_fam": _ce_fam, "loc_cbm": _loc_cbm, "loce": _loce}


def _by_rule(rule: str) -> Method:
    return lambda model, case: cl.cam(model.observe(case.scene.image), cl.Logit(case.asked), rule)


def _finer_cam(model: cl.Backbone, case: Case) -> cl.Explanation:
    return cl.cam(model.observe(case.scene.image), cl.Contrast(case.asked, against=[case.rival]))


def _ce_fam(model: cl.Backbone, case: Case) -> cl.Explanation:
    """Return the region at the cells of the last layer: the early one is four times as fine."""
    seen = model.observe(case.scene.image, [EARLY, CELLS])
    return cl.ce_fam(seen, load_branch(model), [f"{case.asked}:colour"], layer=CELLS, with_contributions=False)


def _loc_cbm(model: cl.Backbone, case: Case) -> cl.Explanation:
    found = load_bottleneck(model).explain(model.observe(case.scene.image))
    return found.select([found.question_index(case.asked)])


def _loce(model: cl.Backbone, case: Case) -> cl.Explanation:
    return cl.loce(model.observe(case.scene.image), case.mask)


def make_maps(model: cl.Backbone) -> dict[str, Tensor]:
    """Return `maps[case height width]` of every method."""
    cases = golden_cases()
    return {
        name: torch.stack([method(model, case).maps[0, 0].detach() for case in cases])
        for name, method in golden_methods().items()
    }


def write_golden(maps: dict[str, Tensor]) -> None:
    """Write each map as shares of its peak, in half precision, beside the peak."""
    kept = {}
    for name, of_cases in maps.items():
        peaks = of_cases.abs().amax((1, 2))
        shares = of_cases / peaks[:, None, None].clamp_min(torch.finfo(torch.float32).tiny)
        kept |= {f"{name}.shares": shares.half().contiguous(), f"{name}.peaks": peaks.float()}
    FILE.write_bytes(save(kept))


def read_golden() -> dict[str, Tensor]:
    """Return `maps[case height width]` of every method, as they were written."""
    kept = load_file(FILE)
    names = [name.removesuffix(".peaks") for name in kept if name.endswith(".peaks")]
    return {name: kept[f"{name}.shares"].float() * kept[f"{name}.peaks"][:, None, None] for name in names}
