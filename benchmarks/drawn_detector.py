"""A small detector of drawn shapes, trained in a minute, and scenes with two objects of one kind."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import conceptlens as cl
from conceptlens.data.drawn_scene import SCENE_COLOURS, Shape, draw_scene

KINDS = ("disc", "square", "triangle", "cross")
SIDE, STRIDE = 96, 8


@dataclass(frozen=True)
class DrawnObjects:
    """A scene with its objects: the photo, the kind of each, and their boxes in pixels."""

    photo: Image.Image
    kinds: tuple[int, ...]
    boxes: tuple[tuple[float, float, float, float], ...]


class DrawnDetector(nn.Module):
    """A trunk of four convolutions and a head that answers each cell: a logit for each kind, and the sides of a box.

    After FCOS (ICCV 2019) with one level, trained on the cell of each object's centre as CenterNet is.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 64)
        stages = [
            part
            for wide, wider in pairwise(widths)
            for part in (nn.Conv2d(wide, wider, 3, 2, 1), nn.BatchNorm2d(wider), nn.ReLU())
        ]
        self.trunk = nn.Sequential(*stages, nn.Conv2d(64, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU())
        self.mixing = nn.Sequential(nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU())
        self.head = nn.Conv2d(64, len(KINDS) + 4, 1)
        nn.init.constant_(self.head.bias[: len(KINDS)], -3.0)  # most cells hold no object

    def forward(self, images: Tensor) -> Tensor:
        """Return `image kind+4 rows columns`."""
        return self.head(self.mixing(self.trunk(images)))


def read(answer: Tensor) -> cl.Detections:
    """Return what a `DrawnDetector` answers as detections."""
    flat = answer.flatten(2).transpose(1, 2)
    centres = cell_centres(answer.shape[2], answer.shape[3]).to(answer)
    sides = flat[..., len(KINDS) :].exp() * STRIDE
    boxes = torch.cat([centres - sides[..., :2], centres + sides[..., 2:]], 2)
    return cl.Detections(boxes, flat[..., : len(KINDS)], overlap=0.5)


def cell_centres(rows: int, columns: int) -> Tensor:
    """Return `cell xy`, in pixels."""
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1) * STRIDE


def as_backbone(module: nn.Module) -> cl.Backbone:
    """Return a trained detector as a model that reads photos; its default layer is found by the package."""
    preprocess = cl.Preprocess((SIDE, SIDE), (0.5,) * 3, (0.25,) * 3, crop_mode="squash")
    return cl.Backbone(module, "drawn detector", transform=preprocess, output=read, class_names=KINDS)


def draw_objects(seed: int, pair: bool) -> DrawnObjects:
    """Draw objects that do not meet: two of one kind (`pair`), or one to three of any."""
    random = np.random.default_rng(seed)
    kinds = [int(random.integers(len(KINDS)))] * 2 if pair else random.integers(len(KINDS), size=random.integers(1, 4))
    shapes: list[Shape] = []
    while len(shapes) < len(kinds):
        radius = float(random.uniform(0.1, 0.18))
        centre = tuple(random.uniform(radius, 1 - radius, 2).tolist())
        apart = [np.hypot(*np.subtract(centre, one.centre)) > 1.05 * (radius + one.radius) for one in shapes]
        if all(apart):
            colour = str(random.choice(list(SCENE_COLOURS)))
            shapes.append(Shape(KINDS[kinds[len(shapes)]], colour, centre, radius))
    scene = draw_scene(shapes, SIDE, seed)
    boxes = []
    for part in scene.parts:
        rows, columns = np.nonzero(part)
        boxes.append((float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)))
    return DrawnObjects(scene.image, tuple(int(kind) for kind in kinds), tuple(boxes))


def train_detector(seed: int, steps: int = 400, scenes: int = 600) -> DrawnDetector:
    """Return a detector trained on drawn scenes, with focal loss for kinds and IoU loss for boxes.

    Args:
        seed: Of the weights, the scenes and their order.
        steps: Steps of 32 scenes each.
        scenes: How many scenes are drawn.
    """
    torch.manual_seed(seed)
    module = DrawnDetector()
    drawn = [draw_objects(1_000_000 + 10_000 * seed + i, pair=i % 2 == 0) for i in range(scenes)]
    transform = as_backbone(module).transform
    images = torch.stack([transform(one.photo) for one in drawn])  # pyright: ignore[reportOptionalCall]
    truth = [_truth(one) for one in drawn]
    kinds, boxes = torch.stack([one[0] for one in truth]), torch.stack([one[1] for one in truth])
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (32,))
        found = read(module(images[rows]))
        optimizer.zero_grad()
        (_kind_loss(found.logits, kinds[rows]) + _box_loss(found.boxes, boxes[rows], kinds[rows])).backward()
        optimizer.step()
        schedule.step()
    return module.eval()


def _truth(drawn: DrawnObjects) -> tuple[Tensor, Tensor]:
    """Return for every cell whether it is the centre of an object of each kind, and that object's box."""
    cells = SIDE // STRIDE
    kinds, boxes = torch.zeros(cells * cells, len(KINDS)), torch.zeros(cells * cells, 4)
    for kind, box in zip(drawn.kinds, drawn.boxes, strict=True):
        column, row = (int((box[i] + box[i + 2]) / 2 / STRIDE) for i in (0, 1))
        kinds[row * cells + column, kind] = 1
        boxes[row * cells + column] = torch.tensor(box)
    return kinds, boxes


def _kind_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the focal loss (ICCV 2017, equation 4, gamma 2), per object."""
    loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    right = torch.where(truth > 0, logits.sigmoid(), 1 - logits.sigmoid())
    return (loss * (1 - right) ** 2).sum() / truth.sum()


def _box_loss(boxes: Tensor, truth: Tensor, kinds: Tensor) -> Tensor:
    """Return `-log IoU` of the boxes at the objects' centres (UnitBox, 2016)."""
    there = kinds.amax(2) > 0
    own, real = boxes[there], truth[there]
    shared = (torch.minimum(own[:, 2:], real[:, 2:]) - torch.maximum(own[:, :2], real[:, :2])).clamp_min(0).prod(1)
    both = (own[:, 2:] - own[:, :2]).prod(1) + (real[:, 2:] - real[:, :2]).prod(1)
    return -(shared / (both - shared)).clamp_min(1e-6).log().mean()
