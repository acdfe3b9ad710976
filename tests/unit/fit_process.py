"""A small fit that a test can start as a process of its own: to kill it, or to run it beside another."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import conceptlens as cl

QUICK: dict[str, Any] = {"hidden": (16, 12), "n_crops": 2, "validation": 0.25, "batch_size": 16}


class Network(nn.Module):
    """Two resolutions, a mean, a linear classifier."""

    def __init__(self, seed: int, width: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Sequential(nn.Conv2d(3, 10, 4, stride=4), nn.ReLU())
            self.second = nn.Sequential(nn.Conv2d(10, width, 2, stride=2), nn.ReLU())
            self.head = nn.Linear(width, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.second(self.first(images)).mean((2, 3)))


def pupil(seed: int = 0) -> cl.Backbone:
    """Return a classifier."""
    return _backbone(Network(seed, 12), f"pupil {seed}", 32)


def teacher_of(seed: int = 9) -> cl.Backbone:
    """Return a teacher with the stand-in for a text encoder."""
    return _backbone(Network(seed, 14), f"teacher {seed}", 40)


def _backbone(module: nn.Module, name: str, side: int) -> cl.Backbone:
    preprocess = cl.Preprocess((side, side))
    labels = ("cat", "dog", "car", "tree")
    return cl.Backbone(module.eval(), name, class_names=labels, transform=preprocess, input_size=(side, side))


def make_photos(folder: Path, count: int) -> Path:
    """Write small photos of coarse noise."""
    folder.mkdir(exist_ok=True)
    for seed in range(count):
        random = np.random.default_rng(seed)
        noise = random.integers(0, 256, (6, 8, 3), dtype=np.uint8) * random.random()
        Image.fromarray(noise.astype(np.uint8)).resize((64, 48)).save(folder / f"{seed:03d}.png")
    return folder


def main() -> None:
    """Run one fit: PHOTOS OUT SCHEDULE [--resume] [--slow]."""
    from conceptlens.concept_regions.fit.fit_ce_fam import fit_ce_fam
    from conceptlens.concept_regions.fit.train_branch import BranchTask

    torch.set_num_threads(1)
    photos, out, schedule, *options = sys.argv[1:]
    if "--slow" in options:  # so that there is a middle to be killed in
        loss = BranchTask.loss

        def slowly(*arguments: Any) -> Tensor:
            time.sleep(0.02)
            return loss(*arguments)

        BranchTask.loss = slowly
    resume = "--resume" in options
    fit_ce_fam(
        pupil(), teacher_of(), photos, out, similarity_weight=0, schedule=schedule, epochs=30, checkpoint_seconds=0.1,
        resume=resume, **QUICK
    )  # fmt: skip


if __name__ == "__main__":
    main()
