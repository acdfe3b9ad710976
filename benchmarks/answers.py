"""Are the answers right? Names against photos judged by eye, presence against masks.

`python benchmarks/answers.py [--json]`; it needs the photos and judgements of CONCEPTLENS_DATA.

- `named_right`: of the concepts shown by default on the test photos and clearly judged, the share that is in the photo.
- `first_right`: the share of photos whose first concept is in the photo.
- `coco_map`: mean average precision over photos of COCO's 133 categories ranked by presence, on val, where base rates
  and weights of presence were fitted on train by `calibrate_presence`.
- `calibration_error`: the larger of the two expected calibration errors of presence, over ten bins: of the judged words
  of the test photos that were shown, and of all categories of the val photos.
- `effect_correlation`, `largest_right`: how contributions rank COCO's categories in a photo by what happens when their
  pixels are removed, train and val together (`effects.py`).
- `random_level`: the mean size of contributions of random directions in place of words, as a share of the margin.
- `sum_error`: the largest distance of named, unnamed and residual from the margin, as a share of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import conceptlens as cl
from conceptlens.concept_regions.concept_scores import score_concepts
from conceptlens.concepts.vocabulary import everyday_words
from conceptlens.explainer.calibration import ScoreCalibration, calibrate_presence, find_calibration
from conceptlens.explainer.photo_observations import observe_labelled
from conceptlens.explainer.photo_run import ExplainOptions, explain_photos
from conceptlens.io.errors import Failure
from conceptlens.statistics.bootstrap import bootstrap_mean
from effects import effects, random_level, sum_error
from judged_photos import DATA, JudgedPhoto, judged_photos
from run_record import run_record

COCO = f"coco_panoptic:{DATA / 'coco_panoptic'}"


def calibration_error(probability: Sequence[float], truth: Sequence[bool], bins: int = 10) -> float:
    """Return the expected calibration error: the mean distance of confidence and frequency over equal bins."""
    values, right = np.asarray(probability), np.asarray(truth, float)
    index = np.minimum((values * bins).astype(int), bins - 1)
    groups = [index == b for b in range(bins)]
    return float(sum(g.sum() * abs(values[g].mean() - right[g].mean()) for g in groups if g.any()) / len(values))


def judged(model: cl.Backbone, photos: Sequence[JudgedPhoto]) -> dict[str, object]:
    """Return how many of the concepts shown are in the photo."""
    results = list(explain_photos(model, [one.file for one in photos], ExplainOptions()))
    shares, first, presence, truth, counts = [], [], [], [], []
    unclear = unjudged = 0
    for photo, result in zip(photos, results, strict=True):
        if isinstance(result, Failure) or result.concepts is None or result.concepts.presence is None:
            raise SystemExit(f"{photo.file} was not explained")
        labels = result.concepts.labels[0]
        counts.append(len(labels))
        clear = [label in photo.present for label in labels if label in photo.present | photo.absent]
        unclear += sum(label in photo.unclear for label in labels)
        unjudged += sum(label not in photo.present | photo.absent | photo.unclear for label in labels)
        shares.append((sum(clear), len(clear)))
        if labels and labels[0] in photo.present | photo.absent:
            first.append(labels[0] in photo.present)
        for label, value in zip(labels, result.concepts.presence[0].tolist(), strict=True):
            if label in photo.present | photo.absent:
                presence.append(value)
                truth.append(label in photo.present)
    by_photo = np.array([right / of for right, of in shares if of])
    return {
        "photos": len(photos),
        "named_right": sum(right for right, _ in shares) / sum(of for _, of in shares),
        "named_right_by_photo": interval(by_photo),
        "clearly_judged": sum(of for _, of in shares),
        "unclear": unclear,
        "unjudged": unjudged,
        "first_right": float(np.mean(first)),
        "first_judged": len(first),
        "shown": float(np.mean(counts)),
        "calibration_error": calibration_error(presence, truth),
    }


def listed_by_z_score(model: cl.Backbone, photos: Sequence[JudgedPhoto], top: int = 8) -> dict[str, object]:
    """Return how many of the everyday words with the highest z-scores are in the photo: names without presence."""
    calibration, language, words = find_calibration(model), model.language, everyday_words()
    assert calibration is not None
    clear, first, unjudged = [], [], 0
    for photo in photos:
        scored = score_concepts(model.observe(photo.file), language, words)
        z_scores = calibration.z_scores(scored.scores.cpu(), scored.text_vectors.cpu(), language)
        labels = [words[i].label for i in scored.top_indices(top, z_scores)[0].tolist()]
        clear += [label in photo.present for label in labels if label in photo.present | photo.absent]
        first += [labels[0] in photo.present] if labels[0] in photo.present | photo.absent else []
        unjudged += sum(label not in photo.present | photo.absent | photo.unclear for label in labels)
    return {
        "named_right": float(np.mean(clear)),
        "clearly_judged": len(clear),
        "unjudged": unjudged,
        "first_right": float(np.mean(first)),
        "first_judged": len(first),
    }


def interval(values: np.ndarray) -> list[float]:
    """Return mean and 95 % bootstrap interval over photos."""
    found = bootstrap_mean(values, range(len(values)))
    return [found.mean, found.low, found.high]


def average_precision(scores: Tensor, truth: Tensor) -> float:
    """Return the average precision of one photo's categories."""
    right = truth[scores.argsort(descending=True)]
    precision = right.cumsum(0) / torch.arange(1, len(right) + 1)
    return float((precision * right).sum() / right.sum())


def fitted_on_train(model: cl.Backbone) -> ScoreCalibration:
    """Return the model's calibration with presence fitted to COCO's train photos."""
    calibration = find_calibration(model)
    assert calibration is not None
    train = cl.open_set(COCO, "train2017")
    return calibrate_presence(model, calibration, observe_labelled(model, train, 0.01, 16), train.concepts, "train")


def coco(model: cl.Backbone, fitted: ScoreCalibration) -> dict[str, object]:
    """Return how well presence ranks COCO's categories on val, fitted on train."""
    val = cl.open_set(COCO, "val2017")
    ranked: dict[str, list[float]] = {"presence": [], "z_score": [], "base_rate": []}
    presence, truth, counts = [], [], []
    for observation, rows in observe_labelled(model, val, 0.01, 16):
        named = cl.explain(observation, val.concepts, calibration=fitted)
        assert named.presence is not None
        assert named.z_scores is not None
        assert named.base_rates is not None
        for i, row in enumerate(rows):
            right = torch.tensor([float(concept in row) for concept in val.concepts])
            presence += named.presence[i].tolist()
            truth += right.bool().tolist()
            counts.append(int((named.presence[i] >= 0.5).sum()))
            if right.any():
                scores = {"presence": named.presence[i], "z_score": named.z_scores[i], "base_rate": named.base_rates[i]}
                for name, values in scores.items():
                    ranked[name].append(average_precision(values, right))
    shown = np.asarray(presence) >= 0.5
    return {
        "mean_average_precision": {name: interval(np.array(values)) for name, values in ranked.items()},
        "precision_of_shown": float(np.asarray(truth)[shown].mean()),
        "shown": float(np.mean(counts)),
        "calibration_error": calibration_error(presence, truth),
        "weights": fitted.presence.vector if fitted.presence else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args()
    model = cl.load_model()
    names = {part: judged(model, judged_photos(part)) for part in ("fit", "choose", "test")}
    by_z_score = listed_by_z_score(model, judged_photos("test"))
    fitted = fitted_on_train(model)
    categories = coco(model, fitted)
    contributions = effects(model, COCO)
    test = [one.file for one in judged_photos("test")]
    level = random_level(model, test)
    figures = {
        "named_right": names["test"]["named_right"],
        "first_right": names["test"]["first_right"],
        "coco_map": categories["mean_average_precision"]["presence"][0],  # pyright: ignore
        "calibration_error": max(names["test"]["calibration_error"], categories["calibration_error"]),  # pyright: ignore
    }
    one_class = contributions["one_class"]["ways"]["evidence"]
    figures |= {
        "effect_correlation": one_class["correlation"][0],
        "largest_right": one_class["largest_right"][0],
        "random_level": float(np.mean(level)),
        "sum_error": sum_error(model, test),
    }
    document = {
        **run_record(),
        "model": model.name,
        "figures": figures,
        "judged": names,
        "test_by_z_score": by_z_score,
        "coco": categories,
        "effects": contributions,
        "random_directions": {
            "photos": len(level),
            "median": float(np.median(level)),
            "mean": float(np.mean(level)),
            "largest": float(np.max(level)),
        },
    }
    print(json.dumps(document, indent=1) if asked.json else "\n".join(f"{n} {v:.3f}" for n, v in figures.items()))


if __name__ == "__main__":
    main()
