"""What every metric of the package is given in tests, by the names of its parameters: a new metric is met at once.

The network is planted: each pixel is evidence for one of four classes, so the truth is known, and its negative is the
worst map there is. Images are not square, two questions about an image ask for the same class.
"""

from __future__ import annotations

import inspect
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from conceptlens.metrics import (
    FAITHFULNESS_METRICS,
    FURTHER_FAITHFULNESS_METRICS,
    MAP_MAP_METRICS,
    MAP_MASK_METRICS,
    PART_METRIC,
    SANITY_METRICS,
    SHIFT_METRIC,
    Metric,
    Score,
    ScoredImages,
)

EVERY_METRIC: dict[str, Metric] = {
    **FAITHFULNESS_METRICS,
    **FURTHER_FAITHFULNESS_METRICS,
    **MAP_MASK_METRICS,
    **MAP_MAP_METRICS,
    **SANITY_METRICS,
    **{one.name: one for one in (PART_METRIC, SHIFT_METRIC)},
}
IMAGES, QUESTIONS, CLASSES = 3, 2, 4
SIZE = (12, 10)
OWN = torch.tensor([[0, 0], [1, 1], [2, 2]])  # the class of every question


@cache
def evidence(size: tuple[int, int] = SIZE) -> Tensor:
    """How much every pixel says for each class: above 0 for one class alone, no two alike."""
    generator = torch.Generator().manual_seed(0)
    owner = torch.randint(CLASSES, size, generator=generator)
    strength = 0.5 + torch.rand(size, generator=generator)
    return torch.stack([strength * (owner == one) for one in range(CLASSES)]) * 24 / (size[0] * size[1])


def shown(size: tuple[int, int] = SIZE) -> Tensor:
    """Images in which the pixels of the class that is asked for are brightest."""
    own = evidence(size)[OWN[:, 0]] > 0
    return (0.5 + 0.5 * own)[:, None].expand(-1, 3, -1, -1).contiguous()


class Planted(nn.Module):
    """A network whose logits are what the pixels say; `last` holds what each class weighs."""

    def __init__(self, size: tuple[int, int] = SIZE) -> None:
        super().__init__()
        self.last = nn.Linear(CLASSES, CLASSES, bias=False)
        self.last.weight.data = torch.eye(CLASSES)
        self.said = evidence(size)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        said = torch.einsum("irc,krc->ik", images.mean(1).float(), self.said)
        return self.last(said)


def scored_case(size: tuple[int, int] = SIZE, dtype: torch.dtype = torch.float32, logits: bool = False) -> ScoredImages:
    """The images, black being 0; scores are probabilities, or with `logits` what no probability can be."""
    net = Planted(size)

    def every(variants: Tensor, rows: Tensor) -> Tensor:
        return net(variants) if logits else net(variants).softmax(1)

    def score(variants: Tensor, rows: Tensor) -> Tensor:
        return every(variants, rows).gather(1, OWN[rows])

    return ScoredImages(shown(size).to(dtype), score, torch.zeros(3), every, OWN)


def true_maps(size: tuple[int, int] = SIZE) -> Tensor:
    """What each pixel says for the question's class, `image question rows columns`; the sum is the change to black."""
    maps = evidence(size)[OWN]
    change = Planted(size)(shown(size)).detach().softmax(1).gather(1, OWN) - 1 / CLASSES
    return maps * (change / maps.sum((2, 3)).clamp_min(1e-6))[..., None, None]


def random_maps(seed: int, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(IMAGES, QUESTIONS, *size, generator=torch.Generator().manual_seed(seed))


def given_for(metric: Metric, maps: Tensor, **changed: Any) -> dict[str, Any]:
    """Return all that a metric takes, for some maps; a parameter that is not known here has to be added.

    A metric that explains again takes `maps` as what is explained of images that are not changed.
    """
    size = (int(maps.shape[2]), int(maps.shape[3]))
    places = evidence(size)[None].expand(IMAGES, -1, -1, -1) > 0
    halves = torch.cat([places & (torch.arange(size[1]) % 2 == way) for way in range(2)], 1)
    known = {
        "explained": maps,
        "scored": scored_case(size),
        "masks": true_maps(size) > 0,
        "first": true_maps(size),
        "second": maps,
        "of_random_labels": -maps,
        "rivals": (OWN + 1) % CLASSES,
        "groups": nn.functional.one_hot(OWN, CLASSES).bool(),
        "rival_groups": nn.functional.one_hot((OWN + 1) % CLASSES, CLASSES).bool(),
        "places": places,
        "contributions": torch.einsum("irc,ikrc->ik", maps[:, 0].double(), places.double()),
        "parts": halves,
        "images": shown(size),
        "module": Planted(size),
        "explain": partial(explained_again, maps),
        "fill": "black",
    }
    needed = [
        name
        for name, one in inspect.signature(metric.compute).parameters.items()
        if one.default is inspect.Parameter.empty or name in changed or name == "fill"
    ]
    return {name: {**known, **changed}[name] for name in needed}


def explained_again(maps: Tensor, changed: Tensor | nn.Module) -> Tensor:
    """Explain by the same maps whatever is asked of."""
    return maps


def measured(metric: Metric, maps: Tensor, **changed: Any) -> Score:
    """Return a metric of some maps, its range and shape checked."""
    found = metric.measure(**given_for(metric, maps, **changed))
    assert found.values.shape[:2] == (IMAGES, QUESTIONS)
    return found
