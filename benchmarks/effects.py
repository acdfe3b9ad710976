"""Do contributions say what counts? Ranks of contributions against what happens when a concept's pixels are removed.

`answers.py` runs this; it needs the photos of CONCEPTLENS_DATA.

The effect of a concept: its mask in the photo is filled, once with the photo's mean colour and once with its blurred
surroundings, and the mean fall of the class's log-probability (of the margin, where two classes are compared) counts.
Photos of COCO with three categories or more that cover at least 1 % of what the model sees; the categories are the
concepts that are asked for. `effect_correlation` is Spearman's, per photo, then the mean over photos. Two ways say what
contributions lack: `true_sizes` keeps their places and makes each category as large as it is, `true_places` keeps their
sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import uniform_filter
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

import conceptlens as cl
from conceptlens.cams.cell_evidence import cell_evidence
from conceptlens.data.masked_set import MaskedPhoto
from conceptlens.explainer.class_evidence import named_shares
from conceptlens.statistics.bootstrap import bootstrap_difference, bootstrap_mean

MIN_AREA, MIN_CATEGORIES, BLUR = 0.01, 3, 49


@dataclass(frozen=True, eq=False)
class Effects:
    """One photo's categories: what removing each does, and what each way of counting says."""

    split: str
    removed: Tensor
    said: dict[str, Tensor]

    def correlation(self, name: str) -> float:
        """Return Spearman's correlation of what is said with what happens; 0 where all is said to be equal."""
        values = self.said[name]
        return 0.0 if float(values.std()) == 0 else float(spearmanr(values, self.removed).statistic)

    def largest(self, name: str) -> float:
        """Return 1 where the largest effect is named."""
        return float(self.said[name].argmax() == self.removed.argmax())


def masks_in_view(photo: MaskedPhoto, observation: cl.Observation) -> Tensor:
    """Return the masks as the model sees them: bool `concept row column` of its input."""
    left, top, right, bottom = observation.image_info[0].box
    rows, columns = photo.masks.shape[1:]
    seen = photo.masks[:, round(top * rows) : round(bottom * rows), round(left * columns) : round(right * columns)]
    size = (observation.images.shape[2], observation.images.shape[3])
    return F.interpolate(torch.from_numpy(seen).float()[None], size=size, mode="area")[0] > 0.5


def filled(image: Tensor, mask: Tensor) -> Tensor:
    """Return the input with a mask filled, `fill colour row column`: by the mean colour, by blurred surroundings."""
    keep = (~mask).float()
    mean = image.mean((1, 2), keepdim=True)
    surroundings = mean.expand_as(image)
    if keep.any():
        weight = torch.from_numpy(_blurred(keep.numpy()))
        values = torch.from_numpy(np.stack([_blurred(band) for band in (image * keep).numpy()]))
        surroundings = torch.where(weight > 1e-3, values / weight.clamp_min(1e-3), mean)
    return torch.stack([image * keep + fill * (1 - keep) for fill in (mean, surroundings)])


def _blurred(band: np.ndarray) -> np.ndarray:
    for _ in range(3):
        band = uniform_filter(band, BLUR, mode="reflect")
    return band


def removal(observation: cl.Observation, masks: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Return how far a score of the logits falls when each mask is filled, the mean of two fills."""
    image = observation.images[0].detach()
    variants = torch.cat([filled(image, mask) for mask in masks])
    with torch.inference_mode():
        after = score(observation.model.observe(variants, layers=[]).logits)
    return (score(observation.logits.detach()) - after).reshape(-1, 2).mean(1)


def effects_of(photo: MaskedPhoto, split: str, model: cl.Backbone) -> tuple[Effects, Effects] | None:
    """Return the effects on the predicted class, and on its margin over the second; `None` for too few categories."""
    observation = model.observe(photo.photo)
    masks = masks_in_view(photo, observation)
    kept = [i for i, mask in enumerate(masks) if float(mask.float().mean()) >= MIN_AREA]
    if len(kept) < MIN_CATEGORIES:
        return None
    masks, concepts = masks[kept], [photo.concepts[i] for i in kept]
    first, second = observation.logits.detach()[0].topk(2).indices.tolist()
    found = []
    for other in (None, second):

        def score(logits: Tensor, other: int | None = other) -> Tensor:
            return logits.log_softmax(1)[:, first] if other is None else logits[:, first] - logits[:, other]

        said = said_by_all_ways(observation, concepts, masks, first, other)
        found.append(Effects(split, removal(observation, masks, score), said))
    return found[0], found[1]


def said_by_all_ways(
    observation: cl.Observation,
    concepts: list[Any],
    masks: Tensor,
    target: int,
    against: int | None,
) -> dict[str, Tensor]:
    """Return what each way of counting says of each category."""
    kept = {"target": target, "against": against}
    by_default = cl.explain(observation, concepts, **kept)  # pyright: ignore[reportArgumentType]
    official = cl.explain(observation, concepts, regions="official", **kept)  # pyright: ignore[reportArgumentType]
    curve = cl.explain(observation, concepts, regions="official", contribution="masking", **kept)  # pyright: ignore[reportArgumentType]
    evidence = cell_evidence(observation, target, against)
    assert evidence is not None
    inside = F.adaptive_avg_pool2d(masks.float()[None], evidence.cells.shape[1:])[0]
    tensors = {
        "evidence": by_default.contributions,
        "evidence_official_regions": official.contributions,
        "masking_curve": curve.contributions,
        "z_score": by_default.z_scores,
        "presence": by_default.presence,
    }  # NaN for a category that the model does not know, which then counts for nothing
    said = {name: values[0].nan_to_num() for name, values in tensors.items() if values is not None}
    shares = named_shares(by_default, (inside.shape[1], inside.shape[2]), named=True)[0]
    places = {
        "true_mask": inside,
        "true_sizes": _of_size(shares, inside),
        "true_places": _of_size(inside, shares),
    }
    by_place = {name: (place * evidence.cells[0]).sum((1, 2)) for name, place in places.items()}
    return {**said, "size": masks.float().mean((1, 2)), **by_place}


def _of_size(places: Tensor, sizes: Tensor) -> Tensor:
    """Return shares of cells, each made as large in all as its counterpart; what has no place stays at 0."""
    return places * sizes.sum((1, 2), keepdim=True) / places.sum((1, 2), keepdim=True).clamp_min(1e-9)


def summary(rows: list[Effects]) -> dict[str, Any]:
    """Return for each way its mean correlation and how often it names the largest, with intervals over photos."""
    photos = list(range(len(rows)))
    table = {}
    by_name = {name: [row.correlation(name) for row in rows] for name in rows[0].said}
    for name, values in by_name.items():
        one = bootstrap_mean(values, photos)
        by_split = {
            split: float(np.mean([v for v, row in zip(values, rows, strict=True) if row.split == split]))
            for split in dict.fromkeys(row.split for row in rows)
        }
        largest = bootstrap_mean([row.largest(name) for row in rows], photos)
        table[name] = {
            "correlation": [one.mean, one.low, one.high],
            **{f"correlation_{split}": value for split, value in by_split.items()},
            "largest_right": [largest.mean, largest.low, largest.high],
        }
    for name in ("masking_curve", "size"):
        gain = bootstrap_difference(by_name["evidence"], by_name[name], photos)
        table["evidence"][f"gain_over_{name}"] = [gain.mean, gain.low, gain.high]
    return {"photos": len(rows), "categories": sum(len(row.removed) for row in rows), "ways": table}


def random_level(model: cl.Backbone, photos: Sequence[Path]) -> list[float]:
    """Return what random directions get in each photo, as a share of the margin (`Explanation.random_level`)."""
    shares = []
    for file in photos:
        found = cl.explain(model.observe(file))
        assert found.random_level is not None
        assert found.margins is not None
        shares.append(float(found.random_level[0] / found.margins[0].abs()))
    return shares


def sum_error(model: cl.Backbone, photos: Sequence[Path]) -> float:
    """Return the largest distance of named + unnamed + residual from the margin, as a share of it."""
    worst = 0.0
    for photo in photos:
        found = cl.explain(model.observe(photo))
        assert found.contributions is not None
        assert found.unnamed is not None
        assert found.margins is not None
        assert found.residuals is not None
        whole = found.contributions.sum(1) + found.unnamed + found.residuals
        evidence = cell_evidence(model.observe(photo))
        assert evidence is not None
        cells = evidence.cells.sum((1, 2)) + evidence.unplaced + evidence.residuals
        errors = [(value - found.margins).abs() / found.margins.abs() for value in (whole, cells)]
        worst = max(worst, *(float(error.max()) for error in errors))
    return worst


def effects(model: cl.Backbone, root: str) -> dict[str, Any]:
    """Return the tables of one class and of two compared, over train and val photos."""
    rows = []
    for split in ("train2017", "val2017"):
        for photo in cl.open_set(root, split):
            found = effects_of(photo, split, model)
            if found is not None:
                rows.append(found)
    return {"one_class": summary([a for a, _ in rows]), "two_classes": summary([b for _, b in rows])}
