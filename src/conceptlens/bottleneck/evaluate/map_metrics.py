"""Where a bottleneck's maps lie: scores of the maps of some photos, beside those of maps that know less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlens.bottleneck.evaluate.metric_result import OWN, joined_score
from conceptlens.metrics.bottleneck_metrics import NORM_KINDS, activation_norm
from conceptlens.metrics.keypoint_baselines import centre_peaks, swapped_error, uniform_maps
from conceptlens.metrics.keypoints import (
    Keypoints,
    centre_distance,
    keypoint_distance,
    keypoint_error,
    keypoint_own,
    keypoint_pointing,
    keypoint_swap,
)
from conceptlens.metrics.map_mask import map_mask_scores
from conceptlens.metrics.part_masks import box_masks, part_mask_scores
from conceptlens.metrics.purity import merge_sides, part_purity
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable

    Scores = dict[str, dict[str, Score]]
    Maps = Float[Tensor, "photo concept height width"]

KEYPOINTS: dict[str, Callable[..., Score]] = {
    "keypoint_error": keypoint_error,
    "keypoint_distance": keypoint_distance,
    "keypoint_pointing": keypoint_pointing,
    "keypoint_own": keypoint_own,
    "keypoint_swap": keypoint_swap,
}
AT_KEYPOINTS = (*KEYPOINTS, "peak_to_centre", "part_energy", "part_ranking")
AT_BOXES = ("box_energy", "box_ranking")
PURITIES = ("purity_purest", "purity_frequent", "purity_overall")
LOCATED_AS = {"energy": "pointing_energy", "ranking": "ranked_area_corrected"}
MASK = (56, 56)  # rows and columns of the masks of boxes
TOP = 10  # photos of each concept that purity is measured on
AT_ONCE = 2**24  # pixels of masks held together


@dataclass(frozen=True, eq=False)
class MapAnnotations:
    """Annotations of some photos, for the concepts whose maps are measured.

    - `present[photo concept]`. `keypoints`: of the same concepts. `boxes[photo 4]`: as shares of the network's input.
    - `constant[concept 2]`: the one location that fits each concept's part best in other photos.
    """

    indices: Sequence[int]
    present: Bool[Tensor, "photo concept"]
    keypoints: Keypoints | None = None
    boxes: Float[Tensor, "photo 4"] | None = None
    constant: Float[Tensor, "concept 2"] | None = None


def map_scores(maps: Maps, known: MapAnnotations, seed: int = 0) -> Scores:
    """Return all scores of maps that the annotations allow: by metric, then by control (`OWN`: the maps themselves)."""
    wrong = _wrong(maps, known, seed)
    found = {f"norm_{norm_kind}": _norm(maps, known.present, norm_kind) for norm_kind in NORM_KINDS}
    if known.keypoints is not None:
        found |= _at_keypoints(maps, known.keypoints, known.constant)
        own, other = (part_mask_scores(one, known.keypoints, MASK) for one in (maps, wrong))
        found |= _named("part", {OWN: own, "wrong": _both(other, known)})
    if known.boxes is not None:
        at_boxes = {
            control: _in_boxes(own, known.boxes, known.present) for control, own in (("", maps), ("wrong", wrong))
        }
        found |= _named("box", {"": at_boxes[""], "wrong": _both(at_boxes["wrong"], known)})
    return found


def _at_keypoints(maps: Maps, keypoints: Keypoints, constant: Tensor | None) -> Scores:
    blind = {"centre": centre_peaks(keypoints), "uniform": uniform_maps(keypoints)}
    if constant is not None:
        blind["constant"] = constant.expand(len(maps), -1, -1)
    found = {
        name: {
            control: measure(where, keypoints)
            for control, where in {OWN: maps, **blind}.items()
            if (name, control) != ("keypoint_swap", "uniform")  # nearly 0, as the centre's, and dear
        }
        for name, measure in KEYPOINTS.items()
    }
    found["keypoint_error"]["other_part"] = swapped_error(maps, keypoints, by="other_part")
    found["keypoint_error"]["wrong"] = swapped_error(maps, keypoints, by="absent")
    found["peak_to_centre"] = {OWN: centre_distance(maps, keypoints)}
    return found


def _norm(maps: Maps, present: Tensor, norm_kind: str) -> dict[str, Score]:
    """Return a reading of the norm, beside that of a flat map, which has no raw one."""
    own = activation_norm(maps, norm_kind, present)  # pyright: ignore[reportArgumentType]
    if norm_kind == "raw":
        return {OWN: own}
    flat = activation_norm(torch.ones(1, 1, *maps.shape[2:]), norm_kind)  # pyright: ignore[reportArgumentType]
    return {OWN: own, "flat": Score(flat.values.expand_as(own.values) * own.applies, own.applies)}


def _named(of: str, found: Mapping[str, Mapping[str, Score]]) -> Scores:
    return {
        f"{of}_{name}": {control: scores[metric] for control, scores in found.items()}
        for name, metric in LOCATED_AS.items()
    }


def _in_boxes(maps: Maps, boxes: Float[Tensor, "photo 4"], present: Bool[Tensor, "photo concept"]) -> dict[str, Score]:
    """Return the scores of maps against boxes, for present concepts, a few photos at a time."""
    step = max(1, AT_ONCE // max(1, present.shape[1] * MASK[0] * MASK[1]))
    parts = []
    for start in range(0, max(len(maps), 1), step):
        some = slice(start, start + step)
        masks = box_masks(boxes[some], MASK)[:, None] & present[some][..., None, None]
        parts.append(map_mask_scores(maps[some], masks))
    return {name: joined_score([part[name] for part in parts]) for name in LOCATED_AS.values()}


def _wrong(maps: Maps, known: MapAnnotations, seed: int) -> Maps:
    """Return for each photo and concept the map of one, drawn by seed and photo, that the photo does not show."""
    chosen = torch.arange(maps.shape[1]).repeat(len(maps), 1)
    for row, index in enumerate(known.indices):
        others = (~known.present[row]).nonzero()[:, 0].numpy()
        if len(others):
            drawn = np.random.default_rng([seed, int(index)]).choice(others, maps.shape[1])
            chosen[row] = torch.from_numpy(drawn)
    return maps.gather(1, chosen[..., None, None].expand_as(maps))


def _both(scores: Mapping[str, Score], known: MapAnnotations) -> dict[str, Score]:
    """Return scores of wrong concepts where the photo lacks a concept at all."""
    some = (~known.present).any(1, keepdim=True)
    return {name: Score(one.values * (one.applies & some), one.applies & some) for name, one in scores.items()}


@dataclass(frozen=True, eq=False)
class TopMaps:
    """The most active of `photos_read` photos for each concept: activations, rows in the set, maps."""

    activations: Float[Tensor, "rank concept"]
    rows: Int[Tensor, "rank concept"]
    maps: Float[Tensor, "rank concept height width"]
    photos_read: int


def most_active(table: BottleneckTable, before: TopMaps | None) -> TopMaps:
    """Return the `TOP` photos in which each mapped concept is most active, of `table` and of those read before it."""
    photos_read = before.photos_read if before else 0
    active, maps = table.activations[:, list(table.mapped)], table.maps
    rows = (torch.arange(len(active)) + photos_read)[:, None].expand_as(active)
    if before:
        active, rows = torch.cat([before.activations, active]), torch.cat([before.rows, rows])
        maps = torch.cat([before.maps, maps])
    best = active.sort(dim=0, descending=True, stable=True).indices[:TOP]
    chosen = maps.gather(0, best[..., None, None].expand(-1, -1, *maps.shape[2:]))
    return TopMaps(active.gather(0, best), rows.gather(0, best), chosen, photos_read + len(table.indices))


def purity_scores(top: TopMaps, keypoints: Keypoints, names: Sequence[str], used: Sequence[bool], seed: int) -> Scores:
    """Return the three purities, `[concept 1]`, of concepts that some class uses; left and right are one part.

    Controls: random maps of photos drawn at random, and the centre of the concept's own photos.
    """
    merged, size = merge_sides(names), tuple(top.maps.shape[2:])
    middle = torch.zeros(1, 1, *size)
    middle[..., size[0] // 2, size[1] // 2] = 1
    found: dict[str, dict[str, list[Score]]] = {name: {OWN: [], "centre": [], "random": []} for name in PURITIES}
    for concept, wanted in enumerate(used):
        if not wanted:
            continue
        draw = torch.Generator().manual_seed(seed * len(used) + concept)
        rows = top.rows[:, concept]
        others = torch.randperm(top.photos_read, generator=draw)[: len(rows)]
        noise = torch.rand(len(rows), 1, *size, generator=draw)
        measured = {
            OWN: (top.maps[:, [concept]], rows),
            "centre": (middle.expand_as(noise), rows),
            "random": (noise, others),
        }
        for control, (maps, which) in measured.items():
            those = keypoints.select(which)
            own = Keypoints(those.xy, those.visible, those.own[[concept]], those.present[:, [concept]], those.sizes)
            pure = part_purity(maps, own, merged, torch.arange(len(maps), 0, -1)[:, None].float())
            for name in PURITIES:
                found[name][control].append(getattr(pure, name.removeprefix("purity_")))
    return {
        name: {control: joined_score(parts) for control, parts in controls.items()}
        for name, controls in found.items()
        if controls[OWN]
    }
