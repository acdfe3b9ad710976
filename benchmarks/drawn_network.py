"""A small network that names what drawn scenes show, and what was fitted to its cells: the ground of the golden maps.

`python benchmarks/drawn_network.py` trains it anew, in two minutes, and writes
`tests/golden/drawn_network.safetensors`; then the golden maps and the cards must be made anew too
(`python benchmarks/cards.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

import conceptlens as cl
from conceptlens.bottleneck.backbone_reference import BackboneReference
from conceptlens.bottleneck.locator import Peaks
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.concept_regions.branch import Branch
from conceptlens.concept_regions.translator import Teacher, Translator
from conceptlens.concepts.concept_set import BottleneckConcept
from conceptlens.data.drawn_scene import KINDS, SCENE_COLOURS, Scene, random_scene
from conceptlens.io.fingerprint import weights_fingerprint

FILE = Path(__file__).parents[1] / "tests" / "golden" / "drawn_network.safetensors"
NAMES = (*SCENE_COLOURS, *KINDS)
SIDE, CELLS, EARLY = 112, "cells", "early"
WIDTHS = (3, 16, 32, 48)
CHANNELS = 48
# Cells around its peak within which a concept of the bottleneck is read.
RADIUS = 2.0
RIDGE = 1e-3


class DrawnNetwork(nn.Module):
    """Six convolutions to 14 x 14 cells, one more that bends what they say, a mean and a logit for each name.

    A cell sees 63 x 63 of the 112 x 112 pixels: a whole shape.
    """

    def __init__(self) -> None:
        super().__init__()
        stages = [_stage(wide, wider, 2) for wide, wider in pairwise(WIDTHS)]
        self.start = stages[0]
        self.early = stages[1]
        self.middle = stages[2]
        self.cells = nn.Sequential(*(_stage(CHANNELS, CHANNELS, 1) for _ in range(3)))
        self.late = _stage(CHANNELS, CHANNELS, 2)
        self.head = nn.Linear(CHANNELS, len(NAMES))

    def forward(self, images: Tensor) -> Tensor:
        """Return `logits[image name]`."""
        cells = self.cells(self.middle(self.early(self.start(images))))
        return self.head(self.late(cells).mean((2, 3)))


def _stage(wide: int, wider: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(wide, wider, 3, stride, 1), nn.BatchNorm2d(wider), nn.ReLU())


@dataclass(frozen=True)
class Names:
    """Texts for the network's names: a text points at the names that it holds."""

    name: str = "names of drawn shapes"
    scale: float = 20.0
    normalised: bool = False

    def encode_image(self, output: object) -> Tensor:
        """Return the vector of an image: the logits."""
        return output.logits  # pyright: ignore[reportAttributeAccessIssue]

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Return `vectors[text name]`, 1 where the text holds the name."""
        return torch.tensor([[float(name in text.split()) for name in NAMES] for text in texts])


def load_network() -> cl.Backbone:
    """Return the trained network; its default layer is `cells`, 14 x 14 of them."""
    module = DrawnNetwork()
    module.load_state_dict(_stored("network."))
    return as_backbone(module.eval())


def as_backbone(module: nn.Module) -> cl.Backbone:
    """Return a network as a model that reads scenes."""
    preprocess = cl.Preprocess((SIDE, SIDE), (0.5,) * 3, (0.25,) * 3, crop_mode="squash")
    return cl.Backbone(module, "drawn network", (CELLS,), preprocess, class_names=NAMES)


def load_branch(model: cl.Backbone) -> Translator:
    """Return the network's branch: linear, from the means of two layers to the names."""
    branch = Branch((EARLY, CELLS), (WIDTHS[2], CHANNELS), len(NAMES), ())
    branch.load_state_dict(_stored("branch."))
    teacher = cl.Backbone(nn.Linear(2, 2), "names", text=Names(), task="embedding")
    return Translator(branch, Teacher.of(teacher), model.name, weights_fingerprint(model.module), {}, teacher)


def load_bottleneck(model: cl.Backbone) -> Bottleneck:
    """Return a bottleneck of the network's names, each read within a Gaussian around its map's peak."""
    reference = BackboneReference(model.name, weights_fingerprint(model.module))
    concepts = [BottleneckConcept(name) for name in NAMES]
    side = SIDE // 8
    made = Bottleneck(concepts, NAMES, CELLS, CHANNELS, Peaks(RADIUS), (side, side), reference)
    with torch.no_grad():
        made.weight.copy_(_stored("bottleneck.")["weight"])
        made.head.weight.copy_(torch.eye(len(NAMES)))
    return made.eval()


@cache
def _tensors() -> dict[str, Tensor]:
    return load_file(FILE)


def _stored(prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a part, in single precision but for counters."""
    parts = {name.removeprefix(prefix): value for name, value in _tensors().items() if name.startswith(prefix)}
    return {name: value.float() if value.is_floating_point() else value for name, value in parts.items()}


def labels_of(scene: Scene) -> list[float]:
    """Return 1 for each name that a scene shows."""
    shown = {*scene.masks, *scene.kinds}
    return [float(name in shown) for name in NAMES]


def main() -> None:
    """Train the network, fit a branch and a bottleneck to its cells, and write all three."""
    torch.set_num_threads(1)
    scenes = [random_scene(2_000_000 + i, SIDE) for i in range(4000)]
    model = as_backbone(DrawnNetwork())
    images = torch.stack([_prepared(model, scene.image) for scene in scenes])
    truth = torch.tensor([labels_of(scene) for scene in scenes])
    module = train(images[:-500], truth[:-500])
    with torch.no_grad():
        right = ((module(images[-500:]) > 0) == (truth[-500:] > 0.5)).float().mean()
    print(f"right answers about 500 other scenes: {right:.3f}")
    half = {name: value.half() if value.is_floating_point() else value for name, value in module.state_dict().items()}
    module.load_state_dict({name: value.float() for name, value in half.items()})
    vectors = fit_vectors(module.eval(), images[:-500], truth[:-500])
    FILE.write_bytes(save({**{f"network.{name}": value for name, value in half.items()}, **vectors}))


def _prepared(model: cl.Backbone, photo: Image.Image) -> Tensor:
    assert model.transform is not None
    return model.transform(photo)


def train(images: Tensor, truth: Tensor, steps: int = 700) -> DrawnNetwork:
    """Return a network that says of every name whether a scene shows it."""
    torch.manual_seed(0)
    module = DrawnNetwork()
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (64,))
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(module(images[rows]), truth[rows]).backward()
        optimizer.step()
        schedule.step()
    return module.eval()


def fit_vectors(module: DrawnNetwork, images: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Return a linear branch and a bottleneck's concept vectors, by ridge from means of cells to what is shown."""
    model = as_backbone(module)
    means: dict[str, list[Tensor]] = {EARLY: [], CELLS: []}
    for chunk in images.split(100):
        seen = model.observe(chunk, [EARLY, CELLS])
        for layer, found in means.items():
            found.append(seen.feature(layer).detach().flatten(2).mean(2))
    early, cells = (torch.cat(found).double() for found in means.values())
    # The deepest layer stands first, and last the column of ones of the constant.
    both = torch.cat([cells, early, torch.ones(len(cells), 1, dtype=torch.double)], 1)
    fitted, vectors = (_ridge(rows, truth.double()) for rows in (both, cells))
    return {
        "branch.network.0.weight": fitted[:, :-1].contiguous().half(),
        "branch.network.0.bias": fitted[:, -1].contiguous().half(),
        "bottleneck.weight": vectors.half(),
    }


def _ridge(rows: Tensor, truth: Tensor) -> Tensor:
    """Return `weights[name column]`, the penalty in units of a column's mean square."""
    gram = rows.T @ rows
    gram += RIDGE * torch.diag(gram.diagonal())
    return torch.linalg.solve(gram, rows.T @ truth).T


if __name__ == "__main__":
    main()
