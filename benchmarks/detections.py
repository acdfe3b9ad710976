"""Does the map of one detection point into its own box? Drawn scenes, COCO photos, and what a map costs.

`python benchmarks/detections.py [--json] [--data FOLDER] [--detector FILE.onnx] [--seeds N]`. See README.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import conceptlens as cl
from conceptlens.model.box_operators import box_overlap
from conceptlens.model.observation import Observation
from conceptlens.statistics.bootstrap import bootstrap_mean
from drawn_detector import as_backbone, draw_objects, train_detector
from measure import growth, seconds
from run_record import run_record

SCENES = 100
SURELY, SAME = 0.3, 0.5  # the score of a detection, and its overlap with the object that it is
INPUT = 416  # YOLOX-nano
LEVELS = {"Mul_246": 52, "Mul_272": 26, "Mul_298": 13}  # its pyramid, and the cells of each
METHODS: dict[str, tuple[Callable[[int, int], Any], str | None]] = {
    "detection": (lambda index, _: cl.Detection(index, min_score=SURELY), None),
    "detection, one weight for a channel": (lambda index, _: cl.Detection(index, min_score=SURELY), "grad_cam"),
    "class maximum": (lambda _, kind: cl.MaxScore(kind), "grad_cam"),
    "class maximum, weights of cells": (lambda _, kind: cl.MaxScore(kind), "hires_cam"),
    "random weights": (lambda index, _: cl.Detection(index, min_score=SURELY), "random"),
}
Rows = dict[str, list[tuple[int, bool, bool]]]  # for each method: photo, in its own box, has a rival of its class


def main() -> None:
    """Measure everything, then print lines or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--data", default="../shared/data/coco_panoptic", help="the folder of COCO photos")
    parser.add_argument("--detector", default="../shared/data/detector/yolox_nano.onnx", help="YOLOX-nano")
    parser.add_argument("--seeds", type=int, default=3, help="how many detectors of drawn shapes are trained")
    parser.add_argument("--cost", choices=("conceptlens", "captum"), help="only measure one map, in this process")
    asked = parser.parse_args()
    if asked.cost:
        print(json.dumps(one_map(asked.cost)))
        return
    details = {
        "scenes": [drawn(seed) for seed in range(asked.seeds)],
        "coco": coco(Path(asked.data), Path(asked.detector)),
        "cost": {tool: in_own_process(tool) for tool in ("conceptlens", "captum")},
    }
    setting = run_record(("torchvision", "captum", "onnx2torch"))
    result = {"name": "detections", "figures": figures(details), "details": {**details, "setting": setting}}
    print(json.dumps(result, indent=2) if asked.json else "\n".join(f"{k}: {v}" for k, v in result["figures"].items()))


def drawn(seed: int) -> dict[str, Any]:
    """Train a detector and explain both objects of scenes with two of one kind."""
    started = time.process_time()
    model = as_backbone(train_detector(seed))
    trained = time.process_time() - started
    rows: Rows = defaultdict(list)
    layer = model.observe(draw_objects(5000, pair=True).photo).layer
    for scene in range(SCENES):
        drawing = draw_objects(5000 + scene, pair=True)
        observation = model.observe(drawing.photo)
        objects = [(drawing.kinds[0], box) for box in drawing.boxes]
        point(observation, objects, scene, lambda _: layer, rows)
    return {"seed": seed, "training_seconds": round(trained, 1), "layer": layer, "methods": summary(rows, False)}


def point(
    observation: Observation,
    objects: Sequence[tuple[int, tuple[float, ...]]],
    photo: int,
    layer: Callable[[int], str],
    rows: Rows,
) -> None:
    """Explain the detection of each object by every method, and note whether the peak lies in the object's box."""
    found = observation.detections.detected(0, SURELY)
    for kind, box in objects:
        overlaps = [
            float(box_overlap(torch.tensor([box]), torch.tensor([one.box]))) if one.class_index == kind else 0.0
            for one in found
        ]
        if max(overlaps, default=0.0) < SAME:
            continue
        index = overlaps.index(max(overlaps))
        rival = sum(other == kind for other, _ in objects) > 1
        for name, (target, rule) in METHODS.items():
            maps = cl.cam(observation, target(index, kind), rule, layer(found[index].candidate)).maps
            rows[name].append((photo, inside(peak_of(maps[0, 0], observation.images.shape[2:]), box), rival))
        rows["centre of the photo"].append((photo, inside(centre_of(observation), box), rival))


def peak_of(values: Tensor, size: Sequence[int]) -> tuple[float, float]:
    """Return the middle of the cell with the highest value, in pixels of the input."""
    row, column = divmod(int(values.flatten().argmax()), values.shape[1])
    return (column + 0.5) * size[1] / values.shape[1], (row + 0.5) * size[0] / values.shape[0]


def centre_of(observation: Observation) -> tuple[float, float]:
    """Return the middle of the input."""
    rows, columns = observation.images.shape[2:]
    return columns / 2, rows / 2


def inside(at: tuple[float, float], box: Sequence[float]) -> bool:
    """Whether a point lies in a box."""
    return box[0] <= at[0] <= box[2] and box[1] <= at[1] <= box[3]


def summary(rows: Mapping[str, list[tuple[int, bool, bool]]], rivals: bool) -> dict[str, dict[str, float]]:
    """Return the share of peaks in their own box, with its interval over photos."""
    found = {}
    for name, ones in rows.items():
        chosen = [(photo, hit) for photo, hit, rival in ones if rival or not rivals]
        interval = bootstrap_mean([float(hit) for _, hit in chosen], [photo for photo, _ in chosen])
        found[name] = {
            "share": round(interval.mean, 3), "low": round(interval.low or 0, 3), "high": round(interval.high or 0, 3),
            "photos": interval.images, "objects": interval.count,
        }  # fmt: skip
    return found


def coco(folder: Path, detector: Path) -> dict[str, Any]:
    """Explain what YOLOX-nano detects in COCO's val photos, at the level of its pyramid that each box comes from."""
    if not (folder.is_dir() and detector.is_file()):
        return {"skipped": "the photos or the detector are not there"}
    if importlib.util.find_spec("onnx2torch") is None:
        return {"skipped": "onnx2torch is not installed, which reads the detector: pip install onnx2torch"}
    model = yolox(detector)
    names: dict[int, int] = {}
    rows: Rows = defaultdict(list)
    for photo, (image, objects) in enumerate(annotated(folder, names)):
        observation = model.observe(image, list(LEVELS))
        point(observation, objects, photo, level_of, rows)
    return {"all": summary(rows, False), "with another object of the class": summary(rows, True)}


def yolox(file: Path) -> cl.Backbone:
    """Return YOLOX-nano, read through onnx2torch."""
    from conceptlens.io.torchvision_operators import mend_torchvision

    mend_torchvision()
    import onnx2torch

    module = onnx2torch.convert(str(file)).eval()
    for shape in module.buffers():
        if shape.dtype == torch.int64 and shape.tolist() == [1, 85, -1]:
            shape[0] = 0  # the file reads one image; 0 keeps the size of the batch
    return cl.Backbone(module, "yolox-nano", tuple(LEVELS), output=read_yolox, task="detection")


def read_yolox(found: Tensor) -> cl.Detections:
    """Read `image candidate 85`: offsets and log sizes in cells, objectness, 80 classes; three levels."""
    grids, strides = [], []
    for side in LEVELS.values():
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        grids.append(torch.stack([x, y], -1).flatten(0, 1).float())
        strides.append(torch.full((side * side, 1), INPUT / side))
    corner, stride = torch.cat(grids).to(found), torch.cat(strides).to(found)
    centre, extent = (found[..., :2] + corner) * stride, found[..., 2:4].exp() * stride
    scores = found[..., 4:5] * found[..., 5:]
    boxes = torch.cat([centre - extent / 2, centre + extent / 2], 2)
    return cl.Detections(boxes, scores.logit(1e-6), scores, overlap=0.45)


def level_of(candidate: int) -> str:
    """Return the layer of the pyramid that a candidate is read from."""
    for name, side in LEVELS.items():
        if candidate < side * side:
            return name
        candidate -= side * side
    raise ValueError("no such candidate")


def annotated(folder: Path, names: dict[int, int]) -> Iterator[tuple[Tensor, list[tuple[int, tuple[float, ...]]]]]:
    """Yield each val photo as the detector takes it (letterbox, BGR, 0-255) with the class and box of its objects."""
    known = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    names |= {one["id"]: i for i, one in enumerate(sorted(known["categories"], key=lambda one: one["id"]))}
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for one in known["annotations"]:
        if not one.get("iscrowd"):
            by_image[one["image_id"]].append(one)
    for image in known["images"]:
        photo = Image.open(folder / "val2017" / image["file_name"]).convert("RGB")
        scale = min(INPUT / photo.width, INPUT / photo.height)
        small = photo.resize((int(photo.width * scale), int(photo.height * scale)), Image.Resampling.BILINEAR)
        pixels = np.full((INPUT, INPUT, 3), 114, np.float32)
        pixels[: small.height, : small.width] = np.asarray(small)[..., ::-1]
        objects = []
        for one in by_image[image["id"]]:
            left, top, width, height = (value * scale for value in one["bbox"])
            objects.append((names[one["category_id"]], (left, top, left + width, top + height)))
        yield torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None], objects


def in_own_process(tool: str) -> dict[str, float]:
    """Measure one map in a fresh process, whose highest memory is then its own."""
    done = subprocess.run([sys.executable, __file__, "--cost", tool], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def one_map(tool: str) -> dict[str, float]:
    """Return the time of the map of one detection, and what it adds to the highest memory of the process.

    A torchvision RetinaNet with random weights, one photo of 256 x 256, its last stage. The target of captum is
    written by hand: the logit of one candidate.
    """
    from conceptlens.io.torchvision_operators import mend_torchvision

    mend_torchvision()
    import torchvision

    torch.manual_seed(0)
    torch.set_num_threads(1)
    detector = torchvision.models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=91, min_size=256, max_size=256
    ).eval()
    image = torch.rand(1, 3, 256, 256)
    candidate, kind = 2000, 17
    model = cl.Backbone(detector, "retinanet", class_names=tuple(map(str, range(91))))
    model.observe(image)  # the layers are found once for a model, not for each map
    found: list[Tensor] = []
    took: list[float] = []

    def ours() -> None:
        observation = model.observe(image)
        found.append(cl.cam(observation, lambda output: output.detections.logits[:, candidate, kind], "grad_cam").maps)

    def theirs() -> None:
        from captum.attr import LayerGradCam

        layer = detector.backbone.body.layer4
        explained = LayerGradCam(lambda x: model.module(x).logits[:, candidate, kind], layer)
        found.append(explained.attribute(image, relu_attributions=True).detach())

    run = ours if tool == "conceptlens" else theirs
    grown = growth(lambda: took.append(seconds(run, "cpu")), "cpu")
    return {"seconds": round(took[0], 3), "megabytes": round(grown, 1), "highest": float(found[0].max())}


def figures(details: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures that the documentation tells."""
    shares = [one["methods"]["detection"]["share"] for one in details["scenes"]]
    cost = details["cost"]
    found = {
        "scenes_lowest_of_seeds": min(shares),
        "scenes_class_maximum": max(one["methods"]["class maximum"]["share"] for one in details["scenes"]),
        "cost_memory_ratio": round(cost["captum"]["megabytes"] / cost["conceptlens"]["megabytes"], 2),
        "cost_time_ratio": round(cost["captum"]["seconds"] / cost["conceptlens"]["seconds"], 2),
    }
    if "all" in details["coco"]:
        for part, key in (("all", "coco"), ("with another object of the class", "coco_rivals")):
            for name in ("detection", "class maximum", "centre of the photo", "random weights"):
                found[f"{key}_{name.replace(' ', '_')}"] = details["coco"][part][name]["share"]
    return found


if __name__ == "__main__":
    main()
