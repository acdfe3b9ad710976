"""A process that embeds drawn scenes, to be killed: `python embed_process.py STORE PHOTOS`."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.local_embeddings.modes import FitSettings
from conceptlens.local_embeddings.runs.embed_plan import EmbedPlan
from conceptlens.local_embeddings.runs.embed_run import embed_batches
from conceptlens.store import Store

LAYERS = ("first", "second")


class Small(nn.Module):
    """Two stages, with random weights that are the same in every process."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 12, 5, stride=4, padding=2), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(12, 20, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Linear(20, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.second(self.first(images)).mean((2, 3)))


def small_model() -> cl.Backbone:
    transform = cl.Preprocess((64, 64), (0.5,) * 3, (0.25,) * 3, crop_mode="squash")
    return cl.Backbone(Small().eval(), "small", LAYERS, transform, input_size=(64, 64))


def small_plan(mode: str = "mean_difference", **settings: object) -> EmbedPlan:
    fit = FitSettings(mode)  # pyright: ignore[reportArgumentType]
    return EmbedPlan(LAYERS, fit, **{"batch_size": 3, "n_scale_photos": 4, **settings})  # pyright: ignore[reportArgumentType]


def main() -> None:
    torch.set_num_threads(1)
    data = cl.open_set(f"drawn:{sys.argv[2]}")
    for progress in embed_batches(data, small_model(), small_plan(), Store(sys.argv[1], create=True), resume=True):
        print(progress.photos, flush=True)


if __name__ == "__main__":
    main()
