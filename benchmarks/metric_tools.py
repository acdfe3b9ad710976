"""What `metric.py` measures: the same maps, images and network for every tool, each called as its documents show."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from conceptlens.io.torchvision_operators import mend_torchvision

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
from conceptlens.cams.image_scoring import scored_images  # noqa: E402
from conceptlens.metrics import ScoredImages, deletion, insertion, removal_curves, road  # noqa: E402

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
# 224 * 224 pixels are 16 times 3136, so that all tools take the same pixels at each step.
STEPS = 16
# Quantus flips colours one by one and takes steps that divide the number of pixels, which three does not: so every
# third step ends with a whole pixel, and sixteen steps of whole pixels are 48 of its own.
QUANTUS_STEPS = 3 * STEPS
PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)
# Images in a pass of the others, beside their own default, where they can be told; and in one of the bare network.
SMALL = 4
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


def our_curve(case: Case, steps: int = STEPS) -> Any:
    return removal_curves(case.maps, case.scored, steps, "black").scores[:, 0]


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


def shares_of(case: Case) -> list[float]:
    """Return the shares of pixels that grad-cam's percentiles remove: all but the `ceil(p (n - 1))` lowest."""
    pixels = case.maps[0, 0].numel()
    return [(pixels - int(np.ceil(p / 100 * (pixels - 1)))) / pixels for p in reversed(PERCENTILES)]


def grad_cams_road_without_noise(case: Case) -> np.ndarray:
    targets = [ClassifierOutputSoftmaxTarget(one) for one in case.classes]
    found = []
    for remove in (RemoveLeastRelevantFirst, RemoveMostRelevantFirst):
        peers = [PerturbationConfidenceMetric(remove(p, NoisyLinearImputer(noise=0))) for p in PERCENTILES]
        maps = case.maps[:, 0].cpu().numpy()
        found.append(np.mean([peer(case.images, maps, targets, case.module) for peer in peers], 0))
    return (found[0] - found[1]) / 2


def bare(case: Case, passes: int) -> None:
    """Run as many images through the network and do nothing else, four in a pass: what no tool can go below."""
    with torch.no_grad():
        for _ in range(-(-passes // SMALL)):
            case.module(case.images[:SMALL])


ROAD: dict[str, Callable[[Case], Any]] = {"ours": our_road, "grad-cam": grad_cams_road}
DELETION: dict[str, Callable[[Case], Any]] = {
    "ours": our_deletion_and_insertion,
    "torchcam": torchcams_deletion_and_insertion,
    "torchcam, small passes": partial(torchcams_deletion_and_insertion, batch=SMALL),
    "ours, curve": our_curve,
    "ours, 48 steps": partial(our_curve, steps=QUANTUS_STEPS),
}
if QUANTUS:
    DELETION["quantus, 48 steps"] = quantus_curve
    DELETION["quantus, 48 steps, small passes"] = partial(quantus_curve, batch=SMALL)
