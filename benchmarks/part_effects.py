"""Do maps give most to the parts whose removal takes most away? On drawn creatures, and on the parts of birds.

`python benchmarks/part_effects.py --head FOLDER [--json] [--photos 200]`. The birds need `cub50` of CONCEPTLENS_DATA
and a head for their classes, which this makes:

`conceptlens fit head --data cub:CUB_200_2011 --crop-mode squash --out-dir FOLDER`

Spearman's correlation of `cl.metrics.part_importance` for every photo: of a map's sums over parts and of how far the
score of the predicted class falls without each. Controls know nothing of the model; *turned around* is Grad-CAM's
negative, *flat* the same everywhere. Creatures are also drawn again without a part, which no fill has to imitate.
Nothing was tuned on any of it. Intervals are over photos.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import conceptlens as cl
from conceptlens.data.part_keypoints import part_keypoints
from conceptlens.metrics.part_effects import part_correlation, part_drops, part_sums
from conceptlens.statistics.bootstrap import bootstrap_difference, bootstrap_mean
from conceptlens.statistics.score import Score
from drawn_creatures import Creatures
from judged_photos import DATA
from run_record import run_record

# Name in the table to rule, target, and whether evidence against the class is kept.
METHODS: dict[str, tuple[str, Any, bool]] = {
    "Grad-CAM": ("grad_cam", cl.Logit(), False),
    "Grad-CAM, signed": ("grad_cam", cl.Logit(), True),
    "HiResCAM": ("hires_cam", cl.Logit(), False),
    "Layer-CAM": ("layer_cam", cl.Logit(), False),
    "Finer-CAM": ("grad_cam", cl.Contrast(), False),
}
CONTROLS = ("random", "centre", "edges", "flat", "turned around")
LAYERS = ("blocks.4", "bn2")  # 14 x 14 cells, and the last 7 x 7
SCORES = {"logit": cl.Logit(), "probability": cl.Probability()}
FILLS, REDRAWN = ("mean", "blur", "inpaint"), "drawn again"
RADIUS = 0.1  # of a disc around a keypoint, a share of the diagonal
TRAIN_EACH = 40

# One photo's correlations, by layer, score and fill; and its drops, by score and fill.
Found = dict[tuple[str, str, str], Score]
Photo = tuple[Found, dict[tuple[str, str], Score]]


def maps_of(seen: cl.Observation, layer: str, name: str) -> Tensor:
    """Return the maps of all methods and controls: `1 method height width`."""
    found = [cl.cam(seen, target, rule, layer, signed).maps for rule, target, signed in METHODS.values()]
    grid = (found[0].shape[2], found[0].shape[3])
    controls = {
        "random": cl.metrics.random_maps([name], 1, grid),
        "centre": cl.metrics.centre_maps(1, 1, grid),
        "edges": cl.metrics.edge_maps(seen.images, 1, grid),
        "flat": torch.ones(1, 1, *grid),
        "turned around": -found[0],
    }
    return torch.cat([*found, *(controls[one] for one in CONTROLS)], 1)


def measured(seen: cl.Observation, parts: Tensor, name: str, redrawn: Tensor | None) -> Photo:
    """Return what one photo gives; all scores of a fill are read of the same forward passes."""
    scored = cl.scored_images(seen, list(SCORES.values()))
    drops = {fill: part_drops(scored, parts, fill) for fill in FILLS}
    whole = scored.run(scored.images, torch.zeros(1, dtype=torch.long)).double()
    if redrawn is not None:
        left = scored.run(redrawn, torch.zeros(len(redrawn), dtype=torch.long)).double()
        lost = (whole - left).T[None]
        drops[REDRAWN] = Score(lost, torch.ones_like(lost, dtype=torch.bool), fill=REDRAWN)
    found = {}
    for layer in LAYERS:
        maps = maps_of(seen, layer, name)
        sums, energy = part_sums(maps, parts), maps.double().abs().sum((2, 3))
        for (number, score), (fill, lost) in itertools.product(enumerate(SCORES), drops.items()):
            values, applies = (part[:, [number]].expand(-1, maps.shape[1], -1) for part in (lost.values, lost.applies))
            own = Score(values, applies, fill=fill)
            found[layer, score, fill] = part_correlation(sums, own, energy, whole[:, [number]].abs().expand_as(energy))
    by_score = {
        (score, fill): Score(lost.values[0, [number]], lost.applies[0, [number]])
        for (number, score), (fill, lost) in itertools.product(enumerate(SCORES), drops.items())
    }
    return found, by_score


def of_birds(model: cl.Backbone, count: int) -> Iterator[Photo]:
    """Yield what each of `count` test photos of birds gives, evenly spaced over the species."""
    photos = cl.open_classes(f"cub:{DATA / 'cub50' / 'CUB_200_2011'}", "test")
    assert model.preprocess is not None
    for index in spaced(len(photos), count):
        _, points = part_keypoints(photos, [index], model.preprocess)
        seen = model.observe(photos[index], LAYERS)
        size = (seen.images.shape[2], seen.images.shape[3])
        yield measured(seen, cl.metrics.part_discs(points, size, RADIUS), photos.names[index], None)


def of_creatures(model: cl.Backbone, photos: Creatures, count: int) -> Iterator[Photo]:
    """Yield what each of `count` drawn creatures gives."""
    for index in spaced(len(photos), count):
        scene = photos.scene(index)
        seen = model.observe(scene.image, LAYERS)
        parts = torch.from_numpy(np.stack(scene.parts))[None]
        without = [photos.scene(index, part).image for part in range(parts.shape[1])]
        yield measured(seen, parts, photos.names[index], model.observe(without, LAYERS).images)


def spaced(photos: int, count: int) -> list[int]:
    """Return evenly spaced indices."""
    return np.linspace(0, photos - 1, min(count, photos)).astype(int).tolist()


def table(photos: list[Photo]) -> dict[str, Any]:
    """Return each method's mean, its difference to controls and to Grad-CAM, and how far fills agree."""
    rows = []
    names = [*METHODS, *CONTROLS]
    for key in photos[0][0]:
        found = [one[key] for one, _ in photos]
        values, applies = torch.cat([one.values for one in found]), torch.cat([one.applies for one in found])
        scores = {name: Score(values[:, [i]], applies[:, [i]], fill=key[2]) for i, name in enumerate(names)}
        for name, own in scores.items():
            row: dict[str, Any] = dict(zip(("layer", "score", "fill"), key, strict=True)) | {"map": name}
            row |= {"mean": interval(bootstrap_mean(*own.pairs())) if own.count else None, "photos": own.count}
            if name in METHODS:
                controls = {control: scores[control] for control in CONTROLS}
                check = cl.metrics.beats_controls(own, controls, True, comparisons=len(METHODS) * len(CONTROLS))
                row["less_control"] = {one.control: interval(one.difference) for one in check.comparisons}
                row["unbeaten"] = list(check.unbeaten)
                row["less_grad_cam"] = paired(own, scores["Grad-CAM"])
            rows.append(row)
    return {"photos": len(photos), "rows": rows, "fills": agreement([drops for _, drops in photos])}


def agreement(drops: list[dict[tuple[str, str], Score]]) -> list[dict[str, Any]]:
    """Return Spearman's correlation of what a part's removal takes away by two fills, the mean over photos."""
    rows = []
    for score in SCORES:
        fills = [fill for which, fill in drops[0] if which == score]
        for first, second in itertools.combinations(fills, 2):
            found = []
            for photo in drops:
                a, b = (
                    Score(one.values[None], one.applies[None]) for one in (photo[score, first], photo[score, second])
                )
                units = [one.values.abs().sum(2) for one in (a, b)]
                found.append(part_correlation(a, b, *units))
            joined = Score(torch.cat([one.values for one in found]), torch.cat([one.applies for one in found]))
            rows.append({"score": score, "fills": [first, second], "mean": interval(bootstrap_mean(*joined.pairs()))})
    return rows


def paired(own: Score, other: Score) -> list[float | None] | None:
    """Return the mean difference of two methods over the photos that both have."""
    both = own.applies & other.applies
    if not bool(both.any()):
        return None
    photo = both.nonzero()[:, 0].numpy()
    return interval(bootstrap_difference(own.values[both].numpy(), other.values[both].numpy(), photo))


def interval(found: Any) -> list[float | None] | None:
    """Return mean, low and high, rounded."""
    if found is None:
        return None
    return [None if one is None else round(float(one), 4) for one in (found.mean, found.low, found.high)]


def fitted_creatures(count: int) -> tuple[cl.Backbone, Creatures, float]:
    """Return the embedded network with a head for creatures, the ones it is tested on, and how often it is right."""
    train, test = Creatures("train", TRAIN_EACH), Creatures("test", -(-count // 10))
    with tempfile.TemporaryDirectory() as folder:
        fitted = cl.fit_head(cl.load_model(crop_mode="squash"), train, Path(folder) / "head", test=test)
    return fitted.model, test, fitted.evaluation.accuracy.mean


def main() -> None:
    """Measure both sets, then print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--head", required=True, help="the folder of a head for the birds, from conceptlens fit head")
    parser.add_argument("--photos", type=int, default=200, help="how many photos of each set")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model, creatures, accuracy = fitted_creatures(asked.photos)
    drawn = table(list(of_creatures(model, creatures, asked.photos)))
    birds = table(list(of_birds(cl.load_model(asked.head), asked.photos)))
    setting = {**run_record(), "radius": RADIUS}
    sets = {"drawn": {"accuracy": round(accuracy, 4), **drawn}, "cub": birds}
    if asked.json:
        print(json.dumps({"name": "part_effects", "sets": sets, "setting": setting}, indent=1))
        return
    for name, found in sets.items():
        for row in found["rows"]:
            print(name, row["layer"], row["score"], row["fill"], row["map"], row["mean"], *row.get("unbeaten", ()))


if __name__ == "__main__":
    main()
