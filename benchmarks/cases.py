"""What one fresh process measures: each case is a plain function of plain values, and returns plain values."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import conceptlens as cl
from measure import flops, growth, median_seconds, seconds
from peers import NETWORKS, SCORE_CAMS, TOOLS

Figures = dict[str, Any]


def prepare(device: str) -> None:
    """One thread on the processor: cases run beside each other, and idle threads would spin on each other's cores."""
    if not device.startswith("cuda"):
        torch.set_num_threads(1)


def noise(batch: int, size: int, device: str) -> Tensor:
    """Return seeded input tensors."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)


def cost(network: str, tool: str, batch: int, questions: int, device: str) -> Figures:
    """Memory and time of `questions` maps for a batch, and the time of one plain forward pass of it."""
    prepare(device)
    known = NETWORKS[network]
    module = known.build(device)
    run = TOOLS[tool](module, known)
    images, classes = noise(batch, 224, device), list(range(questions))
    plain = torch.no_grad()(module)
    plain(images[:1])
    took: list[float] = []
    grown = growth(lambda: took.append(seconds(lambda: run(images, classes), device)), device)
    forward = median_seconds(lambda: plain(images), device)
    if took[0] < 5:  # the first call also pays for what is set up once
        took = [median_seconds(lambda: run(images, classes), device)]
    return {
        "network": network, "tool": tool, "batch": batch, "questions": questions,
        "megabytes": round(grown, 1), "seconds": round(took[0], 3), "forwards_in_time": round(took[0] / forward, 3),
    }  # fmt: skip


def operations(network: str, questions: Sequence[int], device: str) -> list[Figures]:
    """Floating point operations of every tool for one image, as multiples of a plain forward pass."""
    prepare(device)
    known = NETWORKS[network]
    module = known.build(device)
    images = noise(1, 224, device)
    plain = flops(lambda: torch.no_grad()(module)(images))
    found = []
    for tool, build in TOOLS.items():
        run = build(module, known)
        for count in questions:
            spent = flops(lambda run=run, count=count: run(images, list(range(count))))
            found.append({"network": network, "tool": tool, "questions": count, "forwards": round(spent / plain, 4)})
    return found


def probing(network: str, device: str) -> Figures:
    """What ConceptLens pays once for a model: the forward passes that find how its layers are read."""
    prepare(device)
    known = NETWORKS[network]
    module = known.build(device)
    images = noise(1, 224, device)
    torch.no_grad()(module)(images)
    found: list[str] = []
    grown = growth(lambda: found.append(cl.Backbone(module, network).anatomy.default), device)
    return {"network": network, "layer": found[0], "megabytes": round(grown, 1)}


def score_cam(tool: str, size: int, device: str) -> Figures:
    """Memory and time of one Score-CAM map on ResNet-50 with random weights, and the map itself."""
    prepare(device)
    known = NETWORKS["resnet50"]
    module = known.build(device)
    run = SCORE_CAMS[tool](module, known)
    images = noise(1, size, device)
    torch.no_grad()(module)(images)
    maps: list[Any] = []
    took: list[float] = []
    grown = growth(lambda: took.append(seconds(lambda: maps.append(run(images, [0])), device)), device)
    made = maps[0]
    plain = made.maps[0, 0].cpu().tolist() if isinstance(made, cl.Explanation) else made[0].tolist()
    return {"tool": tool, "megabytes": round(grown, 1), "seconds": round(took[0], 2), "map": plain}


def fast_score_cam(photo: str, device: str) -> Figures:
    """Exact and fast Score-CAM of a photo with trained weights: the predicted class, and it against its look-alikes."""
    prepare(device)
    model = cl.load_model(device=device)
    observation = model.observe(_photo(photo), titles=[photo])
    targets = [cl.Logit(), cl.Contrast()]
    made: dict[str, cl.Explanation] = {}
    took: dict[str, float] = {}
    observation.forward(observation.images)
    for rule in ("score_cam", "score_cam_fast"):
        gc.collect()
        call: Callable[[], Any] = lambda rule=rule: made.update({rule: cl.cam(observation, targets, rule)})  # noqa: E731
        took[rule] = seconds(call, device)
    exact, fast = (made[rule].maps[0].cpu() for rule in ("score_cam", "score_cam_fast"))
    notes = made["score_cam_fast"].source.settings
    said: Any = notes["estimated_correlation"]
    return {
        "photo": photo, "class": made["score_cam"].labels[0][0],
        "channels": observation.feature().shape[1],
        "channels_that_vary": int((observation.feature()[0].flatten(1).std(1) > 0).sum()),
        "masked_images": notes["masked_images"], "seconds_exact": round(took["score_cam"], 2),
        "seconds_fast": round(took["score_cam_fast"], 2),
        "correlation": [round(correlation(a, b), 4) for a, b in zip(fast, exact, strict=True)], "estimated": said[0],
    }  # fmt: skip


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two maps."""
    a, b = (t.flatten().double() - t.double().mean() for t in (a, b))
    length = float(a.norm() * b.norm())
    return float(a @ b) / length if length > 0 else math.nan


def _photo(name: str) -> Any:
    from skimage import data

    return data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
