"""When does Finer-CAM help? Relative drops and energy in the box, of every objective, gamma and reference rule.

`python benchmarks/finer_cam.py PART DATA --rows ROWS.jsonl` measures, photo after photo, and goes on where it stopped;
`python benchmarks/finer_cam_summary.py ROWS.jsonl ... --json` makes the tables.

PART is `settings` (published settings and their kin), `earlier` (an earlier layer; `--skip` leaves out photos that
`settings` had, which said what to look for), `chosen` (`cl.choose_contrast`, with random classes as a control)
or `score-cam`. DATA is `cub-whole`, `cub-box` (heads made by `conceptlens fit head cub:DIR --crop whole|box`, given by
`--head`) or `nips2017`, all of CONCEPTLENS_DATA. CUB photos are those of the test split. `choose_contrast` was tuned on
train photos of CUB, each with a head that was fitted without it, and on the first half of nips2017 in the order of
`halves`; the second half is measured here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import conceptlens as cl
from conceptlens.benchmark.benchmark_photos import of_labelled
from conceptlens.cams.contrast_choice import TRIED, ContrastCandidate, choose_among, choose_contrast
from conceptlens.cams.image_scoring import scored_images, similar_classes
from conceptlens.data.photo_views import box_crops
from conceptlens.io.images import find_images
from conceptlens.metrics.map_mask import pointing_energy
from conceptlens.metrics.part_masks import seen_box_mask
from conceptlens.metrics.pixel_hits import pixel_roc
from conceptlens.metrics.pixel_removal import removed_values
from conceptlens.metrics.variant_runs import Reading
from judged_photos import DATA

BOX_PIXELS = 112
EARLIER, NARROW = "blocks.4", "blocks.6"  # 14 x 14 cells of 112 channels; 7 x 7 of 320, for Score-CAM
Settings = dict[str, Any]
PLAIN: Settings = {}
PUBLISHED = {"gamma": 0.6, "nearest": 3, "by": "logit"}
KIN: dict[str, Settings] = {
    "plain": PLAIN,
    **{f"rank 3, gamma {g:g}": {"by": "rank", "nearest": 3, "gamma": g} for g in (0.3, 0.6, 0.8, 1.0)},
    **{f"rank 1, gamma {g:g}": {"by": "rank", "nearest": 1, "gamma": g} for g in (0.3, 0.6, 1.0)},
    "logit 3, gamma 0.6": PUBLISHED,
    "weight 3, gamma 0.6": {"by": "weight", "nearest": 3},
    **{f"weight 1, gamma {g:g}": {"by": "weight", "nearest": 1, "gamma": g} for g in (0.6, 1.0)},
    "rank 3 by softmax, gamma 0.6": {"by": "rank", "references": "softmax"},
    "weight 3 by cosine, gamma 0.6": {"by": "weight", "references": "cosine"},
    "probabilities, rank 3, gamma 0.6": {"by": "rank", "of": "probabilities"},
    "probabilities, rank 1, gamma 1": {"by": "rank", "nearest": 1, "gamma": 1.0, "of": "probabilities"},
    "released code, logit 3, gamma 0.6": {"by": "logit", "objective": "official"},
    "released code, logit 3, gamma 1": {"by": "logit", "objective": "official", "gamma": 1.0},
}
FEW = ("plain", "rank 3, gamma 0.6", "rank 1, gamma 0.6", "weight 3, gamma 0.6", "probabilities, rank 1, gamma 1")
EARLY = ("plain", *(f"rank 1, gamma {g:g}" for g in (0.3, 0.6, 1.0)), "rank 3, gamma 0.6", "weight 1, gamma 0.6")
# Rule, layer (None is the last one) and settings of every group of maps.
GROUPS: dict[str, list[tuple[str, str | None, tuple[str, ...]]]] = {
    "settings": [
        ("grad_cam", None, tuple(KIN)),
        ("layer_cam", None, (*FEW, "released code, logit 3, gamma 0.6")),
        *((rule, EARLIER, FEW[:3]) for rule in ("grad_cam", "hires_cam", "layer_cam")),
    ],
    "earlier": [(rule, EARLIER, EARLY) for rule in ("hires_cam", "layer_cam")],
    "score-cam": [("score_cam", NARROW, FEW[:4]), ("grad_cam", NARROW, FEW[:4])],
}
FILLS = {
    "settings": ("mean", "blur"),
    "earlier": ("mean", "blur"),
    "score-cam": ("mean", "blur"),
    "chosen": ("mean", "black"),
}
SHARES = {"mean": (0.05, 0.1), "blur": (0.05,), "black": (0.05,)}
DELETION = [step / 10 for step in range(1, 11)]
DELETED_BY = {"settings": ("mean",), "earlier": ("mean",), "score-cam": ("mean", "blur"), "chosen": ("mean", "black")}


def halves(count: int) -> tuple[list[int], list[int]]:
    """Return the photos that were tuned on and those that were not, drawn once."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1)).tolist()
    return order[: count // 2], order[count // 2 :]


def photos_of(data: str) -> tuple[Sequence[str], Callable[[int], Any], Tensor | None]:
    """Return names, a reader and boxes (as shares of width and height) of the photos that nothing was tuned on."""
    if data == "nips2017":
        files = find_images(str(DATA / "nips2017" / "images"))
        kept = sorted(halves(len(files))[1])
        return [files[i].name for i in kept], lambda row: files[kept[row]], None
    opened = cl.open_classes(f"cub:{DATA / 'cub50' / 'CUB_200_2011'}", "test")
    seen = box_crops(opened, 0.1) if data == "cub-box" else opened
    boxes = None if data == "cub-box" else torch.from_numpy(of_labelled(opened).boxes)
    return opened.names, lambda row: seen[row], boxes


def drops(explained: Any, scored: Any, rivals: Tensor, part: str) -> dict[str, list[Any]]:
    """Return relative drops of every map, against the most probable class and the one most alike by weight; deletion.

    Deletion is the area under the class's probability over ten steps.
    """
    assert scored.classes is not None
    own = scored.classes

    def read(outputs: Tensor, image: Tensor, question: Tensor) -> Tensor:
        return outputs.gather(1, torch.stack([own[image, question], *(r[image] for r in rivals)], 1))

    found: dict[str, list[Any]] = {}
    for fill in FILLS[part]:
        shares = sorted({*SHARES[fill], *(DELETION if fill in DELETED_BY[part] else ())})
        steps = torch.tensor(shares, dtype=torch.float64)
        _, after, whole = removed_values(explained, scored, Reading(scored.run_classes, read), steps, fill, "highest")
        lost = whole[:, :, None] - after
        for share in SHARES[fill]:
            here = lost[0, :, shares.index(share)]
            found[f"RD@{share * 100:.0f} {fill}"] = (here[:, :1] - here[:, 1:]).tolist()
        if fill in DELETED_BY[part]:
            kept = after[0, :, [shares.index(share) for share in DELETION], 0]
            curve = torch.cat([whole[0, :, :1], kept], 1)
            found[f"deletion {fill}"] = torch.trapezoid(curve, dx=1 / len(DELETION), dim=1).tolist()
    return found


def alikeness(seen: cl.Observation) -> float:
    """Return the cosine of the classifier's rows of the predicted class and the most probable other one."""
    assert seen.class_rows is not None
    rows = seen.class_rows[0].float()
    first, second = seen.logits[0].topk(2).indices.tolist()
    return float(torch.nn.functional.cosine_similarity(rows[first], rows[second], dim=0))


def measured(seen: cl.Observation, names: list[str], explained: Any, part: str, box: Tensor | None) -> list[Settings]:
    """Return a row for each map."""
    index = int(seen.logits.argmax(1)[0])
    scored = scored_images(seen, [cl.Probability(index)] * len(names))
    rivals = torch.stack([similar_classes(seen, index, by)[:, 0] for by in ("rank", "weight")])
    values = drops(explained, scored, rivals, part)
    rows = [{"map": name, **{key: each[i] for key, each in values.items()}} for i, name in enumerate(names)]
    if box is not None:
        mask = seen_box_mask(box, seen.image_info[0].box, (BOX_PIXELS, BOX_PIXELS))
        energy, roc = pointing_energy(explained.maps, mask), pixel_roc(explained.maps, mask)
        for i, row in enumerate(rows):
            row |= {"box energy": energy.of(0, i), "box ROC": roc.of(0, i)}
    return rows


def of_settings(seen: cl.Observation, part: str, box: Tensor | None) -> list[Settings]:
    """Return the rows of all settings of a photo."""
    index, rows = int(seen.logits.argmax(1)[0]), []
    for rule, layer, chosen in GROUPS[part]:
        questions = [cl.Logit(index) if not KIN[one] else cl.Contrast(index, **KIN[one]) for one in chosen]
        explained = cl.cam(seen, questions, rule, layer)
        where = f"{rule}{f' of {layer}' if layer else ''}"
        rows += measured(seen, [f"{where}: {one}" for one in chosen], explained, part, box)
    return rows


def of_chosen(seen: cl.Observation, row: int, box: Tensor | None) -> list[Settings]:
    """Return the rows of what is chosen, of the class alone, of the published settings and of a control."""
    index, rows = int(seen.logits.argmax(1)[0]), []
    for rule in ("grad_cam", "layer_cam") if row % 3 == 0 else ("grad_cam",):
        picked = {"chosen": choose_contrast(seen, index, rule)}
        if row % 3 == 0:
            picked["chosen among random classes"] = choose_among(seen, *_at_random(seen, index, row), rule)
        questions = [cl.Logit(index), cl.Contrast(index, **PUBLISHED), *(one.contrast for one in picked.values())]
        explained = cl.cam(seen, questions, rule)
        names = [f"{rule}: {one}" for one in ("plain", "logit 3, gamma 0.6", *picked)]
        found = measured(seen, names, explained, "chosen", box)
        for one, choice in zip(found[2:], picked.values(), strict=True):
            one["gamma"] = float(choice.gammas[0])
        rows += found
    return rows


def _at_random(seen: cl.Observation, index: int, row: int) -> tuple[Tensor, list[ContrastCandidate]]:
    """Return as many contrasts with as many classes as are tried, of classes drawn at random."""
    generator = torch.Generator().manual_seed(row)
    others = [one for one in torch.randperm(seen.logits.shape[1], generator=generator).tolist() if one != index]
    drawn = {by: torch.tensor([others[i]]) for i, by in enumerate(dict.fromkeys(by for by, _ in TRIED))}
    return torch.tensor([index]), [ContrastCandidate(f"gamma {gamma:g}", drawn[by], gamma) for by, gamma in TRIED]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=sorted(FILLS))
    parser.add_argument("data", choices=("cub-whole", "cub-box", "nips2017"))
    parser.add_argument("--head", help="the folder of the fitted head, for CUB")
    parser.add_argument("--photos", type=int, help="how many photos, drawn once; by default all")
    parser.add_argument("--skip", type=int, default=0, help="how many of the photos drawn first are left out")
    parser.add_argument("--rows", type=Path, required=True, help="where rows are written, one line a photo")
    asked = parser.parse_args()
    if asked.data != "nips2017" and asked.head is None:
        parser.error("give --head, a folder made by conceptlens fit head")
    model = cl.load_model(asked.head) if asked.head else cl.load_model()
    model.module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] # faster by a third
    names, read, boxes = photos_of(asked.data)
    layers = [EARLIER, NARROW, *model.default_layers] if asked.part in GROUPS else list(model.default_layers)
    count = min(asked.photos or len(names), len(names))
    done = {json.loads(line)["row"] for line in asked.rows.read_text().splitlines()} if asked.rows.exists() else set()
    with asked.rows.open("a") as file:
        for row in torch.randperm(len(names), generator=torch.Generator().manual_seed(2)).tolist()[
            asked.skip : asked.skip + count
        ]:
            if row in done:
                continue
            started = time.perf_counter()
            seen = model.observe(read(row), layers)
            box = None if boxes is None else boxes[row].double()
            maps = of_chosen(seen, row, box) if asked.part == "chosen" else of_settings(seen, asked.part, box)
            high = seen.logits.softmax(1)[0].topk(2).values.tolist()
            head = {"part": asked.part, "data": asked.data, "row": row, "photo": names[row], "probabilities": high}
            head["alike"] = alikeness(seen)
            taken = round(time.perf_counter() - started, 2)
            file.write(json.dumps({**head, "maps": maps, "seconds": taken}) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
