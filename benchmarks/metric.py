"""Metrics of a map and a model: ROAD beside grad-cam, deletion and insertion beside torch-cam and Quantus.

`python benchmarks/metric.py [--json] [--quick] [--device cuda]`. All get the same maps, images and network, and their
values are compared in the same run. Quantus is measured where it is installed (it is no part of `conceptlens[bench]`:
its licence is the GPL). Time is processor time of one thread, or wall time on CUDA; see README.md in this folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from typing import Any

from conceptlens.model.torchvision_operators import mend_torchvision

mend_torchvision()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from pytorch_grad_cam.metrics.perturbation_confidence import (  # noqa: E402
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)
from pytorch_grad_cam.metrics.road import NoisyLinearImputer, ROADCombined  # noqa: E402
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torchcam.metrics import DeletionInsertionMetric  # noqa: E402

import conceptlens as cl  # noqa: E402
from cam import processor  # noqa: E402
from conceptlens.cams.image_scoring import scored_images  # noqa: E402
from conceptlens.metrics import ScoredImages, deletion, insertion, removal_curves, road  # noqa: E402
from measure import growth, seconds, show  # noqa: E402

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
# Deletion is measured on as many parts of each: with few images, the passes of Quantus are small by chance.
PARTS = 8
# 224 * 224 pixels are 16 times 3136, so that all tools take the same pixels at each step.
STEPS = 16
# Quantus flips colours one by one, in steps that divide the number of pixels: every third of them ends with a pixel.
QUANTUS_STEPS = 48
PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)
# Images in a pass of the others, beside their own default, where they can be told.
SMALL = 4
REPEATS = {"road": 3, "deletion": 2}
PACKAGES = ("conceptlens", "torch", "grad-cam", "torchcam")
QUANTUS = importlib.util.find_spec("quantus") is not None


@dataclass(frozen=True, eq=False)
class Case:
    """Photos as a trained network takes them, Grad-CAM maps of its predicted classes at their size, and the module."""

    module: nn.Module
    scored: ScoredImages
    maps: Tensor
    classes: list[int]

    @property
    def images(self) -> Tensor:
        return self.scored.images


class Given:
    """What torch-cam's metrics need of an extractor, with maps that are given."""

    def __init__(self, case: Case) -> None:
        self.model, self.maps = case.module, case.maps[:, 0]

    def __call__(self, *_: Any, **__: Any) -> list[Tensor]:
        return [self.maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> AbstractContextManager[None]:
        return nullcontext()


def main() -> None:
    """Run all in turn, then print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--quick", action="store_true", help="one photo, each call once")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    asked = parser.parse_args()
    started = time.perf_counter()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "__array_wrap__", DeprecationWarning)  # grad-cam hands tensors to NumPy
    photos, parts = (1, 2) if asked.quick else (len(PHOTOS), PARTS)
    details = {
        "road": road_details(prepare(photos, 1, asked.device), asked),
        "deletion": deletion_details(prepare(photos, parts, asked.device), asked),
        "megabytes": memory(photos, parts, asked.device),
        "setting": setting(asked, photos, parts, round(time.perf_counter() - started)),
    }
    whole = {"name": "metric", "figures": figures(details), "details": details}
    if asked.json:
        print(json.dumps(whole, indent=2))
    else:
        show([{"figure": name, "value": value} for name, value in whole["figures"].items()])


def prepare(photos: int, parts: int, device: str) -> Case:
    """Observe photos of scikit-image, or parts of each, and enlarge the embedded classifier's maps for all tools alike.

    Zero stands for black, for that is what torch-cam and Quantus set removed pixels to here. A slight slope keeps
    pixels from being equal, for Quantus orders equal ones as its sort happens to.
    """
    from skimage import data

    model = cl.load_model().to(device)
    whole = [Image.fromarray(getattr(data, name)()) for name in PHOTOS[:photos]]
    seen = model.observe(whole if parts == 1 else [part for photo in whole for part in parts_of(photo, parts)])
    maps = cl.cam(seen, signed=True).maps.double()
    large = nn.functional.interpolate(maps, seen.images.shape[2:], mode="bilinear", align_corners=False).float()
    low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
    slope = torch.linspace(0, 0.05, large[0, 0].numel(), device=large.device).reshape(large.shape[2:])
    scaled = (large - low) / (high - low) + slope
    given = scored_images(seen)
    zeros = torch.zeros(seen.images.shape[1])
    scored = ScoredImages(given.images, given.score, zeros, given.probabilities, given.classes)
    return Case(model.module.eval(), scored, scaled / scaled.amax((2, 3), keepdim=True), seen.logits.argmax(1).tolist())


def parts_of(photo: Image.Image, parts: int) -> list[Image.Image]:
    """Return windows of three quarters of each side, from the upper left to the lower right."""
    width, height = photo.size
    steps = [step / max(1, parts - 1) / 4 for step in range(parts)]
    boxes = [(s * width, s * height, (s + 0.75) * width, (s + 0.75) * height) for s in steps]
    return [photo.crop(tuple(map(round, box))) for box in boxes]


def our_road(case: Case) -> Any:
    return road(case.maps, case.scored, shares=shares_of(case))


def grad_cams_road(case: Case) -> Any:
    targets = [ClassifierOutputSoftmaxTarget(one) for one in case.classes]
    return ROADCombined(list(PERCENTILES))(case.images, case.maps[:, 0].cpu().numpy(), targets, case.module)


def our_deletion_and_insertion(case: Case) -> Any:
    return (
        deletion(case.maps, case.scored, "black", STEPS, "rows").mean(),
        insertion(case.maps, case.scored, "black", STEPS, "rows").mean(),
    )


def our_curve(case: Case) -> Any:
    return removal_curves(case.maps, case.scored, QUANTUS_STEPS, "black").scores[:, 0]


def torchcams_deletion_and_insertion(case: Case, batch: int = 32) -> Any:
    """torch-cam's metric; 32 variants a pass are its default."""
    metric = DeletionInsertionMetric(Given(case), partial(torch.softmax, dim=-1), steps=STEPS, batch_size=batch)
    metric.update(case.images, case.classes)
    found = metric.summary()
    return found["deletion_auc"], found["insertion_auc"]


def quantus_curve(case: Case, batch: int = 64) -> Any:
    """Pixel flipping; it begins after its first step, without the whole image. 64 images a pass are its default."""
    import quantus

    images = case.images.cpu().numpy()
    metric = quantus.PixelFlipping(
        features_in_step=images[0].size // QUANTUS_STEPS,
        perturb_baseline=0.0,
        normalise=False,
        abs=False,
        disable_warnings=True,
    )
    maps = np.broadcast_to(case.maps.cpu().numpy(), images.shape)
    device = case.images.device.type
    return metric(case.module, images, np.array(case.classes), maps, softmax=True, device=device, batch_size=batch)


ROAD: dict[str, Callable[[Case], Any]] = {"ours": our_road, "grad-cam": grad_cams_road}
DELETION: dict[str, Callable[[Case], Any]] = {
    "ours": our_deletion_and_insertion,
    "torchcam": torchcams_deletion_and_insertion,
    "torchcam, small passes": partial(torchcams_deletion_and_insertion, batch=SMALL),
    "ours, 48 steps": our_curve,
}
if QUANTUS:
    DELETION["quantus, 48 steps"] = quantus_curve
    DELETION["quantus, 48 steps, small passes"] = partial(quantus_curve, batch=SMALL)


def measured(
    case: Case, calls: dict[str, Callable[[Case], Any]], repeats: int, device: str
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the median seconds of each tool and its last result; they take turns, so that a busy spell meets all."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    results: dict[str, Any] = {}

    def keep(name: str) -> None:
        results[name] = calls[name](case)

    with torch.no_grad():
        case.module(case.images[:SMALL])
    for _ in range(repeats):
        for name in calls:
            taken[name].append(seconds(partial(keep, name), device))
    return {name: round(statistics.median(several), 3) for name, several in taken.items()}, results


def shares_of(case: Case) -> list[float]:
    """Return the shares of pixels that grad-cam's percentiles remove: all but the `ceil(p (n - 1))` lowest."""
    pixels = case.maps[0, 0].numel()
    return [(pixels - int(np.ceil(p / 100 * (pixels - 1)))) / pixels for p in reversed(PERCENTILES)]


def road_details(case: Case, asked: argparse.Namespace) -> dict[str, Any]:
    """Return the time of both tools, and how far values are apart: without noise, and with each tool's own."""
    taken, results = measured(case, ROAD, 1 if asked.quick else REPEATS["road"], asked.device)
    targets = [ClassifierOutputSoftmaxTarget(one) for one in case.classes]
    found = []
    for remove in (RemoveLeastRelevantFirst, RemoveMostRelevantFirst):
        peers = [PerturbationConfidenceMetric(remove(p, NoisyLinearImputer(noise=0))) for p in PERCENTILES]
        found.append(
            np.mean([peer(case.images, case.maps[:, 0].cpu().numpy(), targets, case.module) for peer in peers], 0)
        )
    ours = road(case.maps, case.scored, "inpaint", shares=shares_of(case)).values[:, 0].numpy()
    noisy, again = results["ours"].values[:, 0].numpy() - results["grad-cam"], grad_cams_road(case)
    return {
        "seconds": taken,
        "largest_difference_without_noise": float(np.abs(ours - (found[0] - found[1]) / 2).max()),
        "largest_difference_with_noise": float(np.abs(noisy).max()),
        "grad_cams_own_largest_difference_from_run_to_run": float(np.abs(again - results["grad-cam"]).max()),
    }


def deletion_details(case: Case, asked: argparse.Namespace) -> dict[str, Any]:
    """Return the time of each tool, and how far areas are from torch-cam's, curves from Quantus' at whole pixels."""
    taken, results = measured(case, DELETION, 1 if asked.quick else REPEATS["deletion"], asked.device)
    apart = np.abs(np.subtract(results["ours"], results["torchcam"]))
    found: dict[str, Any] = {"seconds": taken, "largest_difference_from_torchcam": float(apart.max())}
    if QUANTUS:
        ours, theirs = results["ours, 48 steps"].numpy()[:, 3::3], np.array(results["quantus, 48 steps"])[:, 2::3]
        found["largest_difference_from_quantus"] = float(np.abs(ours - theirs).max())
    return found


def memory(photos: int, parts: int, device: str) -> dict[str, float]:
    """Return the growth of memory of each tool in megabytes, in a process of its own."""
    calls = {f"road, {name}": (call, photos, 1, device) for name, call in ROAD.items()}
    calls |= {f"deletion, {name}": (call, photos, parts, device) for name, call in DELETION.items()}
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        return {name: pool.submit(grown, *given).result() for name, given in calls.items()}


def grown(call: Callable[[Case], Any], photos: int, parts: int, device: str) -> float:
    """Return how much one call's peak exceeds what is held after a plain forward pass of one photo."""
    torch.set_num_threads(1)
    case = prepare(photos, parts, device)
    with torch.no_grad():
        case.module(case.images[:1])
    return round(growth(partial(call, case), device), 1)


def figures(details: dict[str, Any]) -> dict[str, float]:
    """Return the headline numbers; README.md says what each means."""
    road_seconds, taken, grew = details["road"]["seconds"], details["deletion"]["seconds"], details["megabytes"]
    found = {
        "road_speedup": road_seconds["grad-cam"] / road_seconds["ours"],
        "road_difference": details["road"]["largest_difference_without_noise"],
        "road_megabytes": grew["road, ours"],
        "road_megabytes_grad_cam": grew["road, grad-cam"],
        "deletion_speedup_torchcam": taken["torchcam"] / taken["ours"],
        "deletion_speedup_torchcam_small": taken["torchcam, small passes"] / taken["ours"],
        "deletion_difference_torchcam": details["deletion"]["largest_difference_from_torchcam"],
        "deletion_megabytes": grew["deletion, ours"],
        "deletion_megabytes_torchcam": grew["deletion, torchcam"],
    }
    if QUANTUS:
        found |= {
            "deletion_speedup_quantus": taken["quantus, 48 steps"] / taken["ours, 48 steps"],
            "deletion_speedup_quantus_small": taken["quantus, 48 steps, small passes"] / taken["ours, 48 steps"],
            "deletion_difference_quantus": details["deletion"]["largest_difference_from_quantus"],
            "deletion_megabytes_quantus": grew["deletion, quantus, 48 steps"],
        }
    return {name: float(f"{value:.3g}") for name, value in found.items()}


def setting(asked: argparse.Namespace, photos: int, parts: int, taken: int) -> dict[str, Any]:
    """Return what is needed to read the numbers: command, versions, machine."""
    words = ["python", "benchmarks/metric.py", "--json", *(["--quick"] if asked.quick else [])]
    names = (*PACKAGES, *(["quantus"] if QUANTUS else []))
    return {
        "command": " ".join(words + (["--device", asked.device] if asked.device != "cpu" else [])),
        "network": "timm:tf_efficientnet_lite0, embedded weights, 224 x 224",
        "photos": list(PHOTOS[:photos]),
        "parts_of_each_for_deletion": parts,
        "seconds": taken,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "device": torch.cuda.get_device_name() if asked.device.startswith("cuda") else processor(),
        "threads": 1,
    }


if __name__ == "__main__":
    main()
