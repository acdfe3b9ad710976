"""The training of CE-FAM's branch, in plain loops and float64, straight from the paper and the published program."""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from conceptlens.concept_regions.branch import Branch
from conceptlens.concept_regions.fit.pairs import DistillationPairs, ShardedRows
from conceptlens.concept_regions.fit.train_branch import DistillationLoss, train_branch
from conceptlens.training.loop import TrainingRun, train_network
from conceptlens.training.schedule import SCHEDULES, EpochSchedule
from tolerance import assert_agree


@dataclass(frozen=True)
class Language:
    scale: float
    bias: float
    normalised: bool
    name: str = "oracle"

    def encode_image(self, output: object) -> Tensor:
        raise NotImplementedError

    def encode_text(self, texts: object) -> Tensor:
        raise NotImplementedError


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def score(image: list[float], text: list[float], language: Language) -> float:
    if language.normalised:
        length = math.sqrt(dot(image, image)) * math.sqrt(dot(text, text))
        return language.scale * dot(image, text) / length + language.bias
    return language.scale * dot(image, text) + language.bias


def losses(made: Tensor, wanted: Tensor, texts: Tensor, language: Language) -> list[tuple[float, float]]:
    found = []
    for h, e in zip(made.tolist(), wanted.tolist(), strict=True):
        embedding = sum((x - y) ** 2 for x, y in zip(h, e, strict=True)) / len(h)
        squares = [(score(h, t, language) - score(e, t, language)) ** 2 for t in texts.tolist()]
        found.append((embedding, sum(squares) / len(squares)))
    return found


LANGUAGES = [Language(100.0, 0.0, True), Language(4.0, -10.0, True), Language(1.0, 0.0, False)]


@pytest.mark.parametrize("language", LANGUAGES, ids=["clip", "siglip", "stand-in"])
def test_the_losses(language: Language) -> None:
    random = torch.Generator().manual_seed(0)
    made, wanted, texts = (torch.randn(n, 6, generator=random, dtype=torch.float64) for n in (5, 5, 4))
    embedding, similar = DistillationLoss(language, texts, 0.001).losses(made, wanted)
    for row, (a, b) in enumerate(losses(made, wanted, texts, language)):
        assert float(embedding[row]) == pytest.approx(a, rel=1e-12)
        assert float(similar[row]) == pytest.approx(b, rel=1e-12)
    alone, nothing = DistillationLoss(language).losses(made, wanted)
    assert_agree(alone, embedding)
    assert not nothing.any()


def by_hand(
    weights: list[tuple[Tensor, Tensor]], z: Tensor, wanted: Tensor, texts: Tensor, language: Language
) -> tuple[float, list[tuple[Tensor, Tensor]]]:
    """Loss and gradients of one batch by the chain rule, written out; unit vectors only."""
    (w1, b1), (w2, b2), (w3, b3) = weights
    a1 = torch.tanh(z @ w1.T + b1)
    a2 = torch.tanh(a1 @ w2.T + b2)
    h = a2 @ w3.T + b3
    rows, dimension = h.shape
    units = texts / texts.norm(dim=1, keepdim=True)
    length = h.norm(dim=1, keepdim=True)
    ours = language.scale * (h / length) @ units.T
    theirs = language.scale * (wanted / wanted.norm(dim=1, keepdim=True)) @ units.T
    loss = ((h - wanted) ** 2).mean() + 0.001 * ((ours - theirs) ** 2).mean()
    d_scores = 0.001 * 2 * (ours - theirs) / (rows * len(texts))
    d_unit = language.scale * d_scores @ units
    unit = h / length
    d_h = 2 * (h - wanted) / (rows * dimension) + (d_unit - (d_unit * unit).sum(1, keepdim=True) * unit) / length
    d_2 = (d_h @ w3) * (1 - a2**2)
    d_1 = (d_2 @ w2) * (1 - a1**2)
    return float(loss), [(d_1.T @ z, d_1.sum(0)), (d_2.T @ a1, d_2.sum(0)), (d_h.T @ a2, d_h.sum(0))]


def table(rows: Tensor) -> ShardedRows:
    return ShardedRows((rows,), (torch.arange(len(rows)),))


def test_sgd_steps_by_hand(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(1)
    z, wanted, texts = (torch.randn(n, d, generator=random) for n, d in ((7, 5), (7, 4), (3, 4)))
    language = LANGUAGES[1]
    torch.manual_seed(0)
    branch = Branch(("a", "b"), (2, 3), 4, (6, 5))
    before = copy.deepcopy(branch.state_dict())
    schedule = EpochSchedule("sgd", 0.1, 0.2, 1, "plateau", epochs=2, patience=4, batch_size=4)
    pairs = DistillationPairs(table(z), table(wanted), table(z[:2]), table(wanted[:2]), 7)
    run = TrainingRun(Accelerator(cpu=True, device_placement=False), tmp_path, seed=5)
    trained, state = train_branch(branch, pairs, DistillationLoss(language, texts, 0.001), schedule, run)

    weights = [
        (branch.network[i].weight.detach().double().clone(), branch.network[i].bias.detach().double().clone())
        for i in (0, 2, 4)
    ]
    shuffler = torch.Generator().manual_seed(5)
    best, step = (math.inf, weights), 0
    for epoch in range(2):
        order = torch.randperm(7, generator=shuffler)
        summed = 0.0
        for batch in (order[:4], order[4:]):
            speed = 0.1 + 0.1 * min(1.0, step / 2)
            loss, gradients = by_hand(weights, z[batch].double(), wanted[batch].double(), texts.double(), language)
            weights = [(w - speed * dw, b - speed * db) for (w, b), (dw, db) in zip(weights, gradients, strict=True)]
            summed, step = summed + loss * len(batch), step + 1
        held, _ = by_hand(weights, z[:2].double(), wanted[:2].double(), texts.double(), language)
        assert state.history[epoch]["train"] == pytest.approx(summed / 7, rel=1e-5)
        assert state.history[epoch]["validation"] == pytest.approx(held, rel=1e-5)
        best = min(best, (held, weights), key=lambda pair: pair[0])
    for i, (w, b) in zip((0, 2, 4), best[1], strict=True):
        assert torch.allclose(trained.network[i].weight.double(), w, atol=1e-6)
        assert torch.allclose(trained.network[i].bias.double(), b, atol=1e-6)
    assert all(torch.equal(before[name], value) for name, value in branch.state_dict().items())  # left as it was


def test_the_rate_follows_warm_up_plateau_and_stop(tmp_path: Path) -> None:
    """The validation loss stalls from the first epoch: every third epoch halves the rate, and the tenth ends it."""
    schedule = EpochSchedule("sgd", 0.1, 0.2, 1, "plateau", epochs=50, patience=2, factor=0.5, stop=10, batch_size=3)
    task = Still()
    state = train_network(
        task, schedule, TrainingRun(Accelerator(cpu=True, device_placement=False), tmp_path), task.validate
    )
    assert (len(state.history), state.best_epoch, state.step) == (11, 1, 22)
    warm = [0.1, 0.15]
    # ReduceLROnPlateau: the first epoch is the best; epochs 2-4 stall (more than two), then 5-7, then 8-10
    after = [0.2] * 3 + [0.1] * 3 + [0.05] * 3 + [0.025]
    moved = [float(a - b) for a, b in pairwise(task.places)]
    assert moved == pytest.approx([*warm, *(rate for rate in after for _ in range(2))][:-1], rel=1e-5)


class Still:
    """A task whose gradient is always 1 and whose validation loss is always 1."""

    def __init__(self) -> None:
        self.network, self.rows = torch.nn.Linear(1, 1, bias=False).double(), 6
        self.places: list[Tensor] = []

    def loss(self, network: torch.nn.Module, own: Tensor, batch: Tensor, gather: object, done: float) -> Tensor:
        (weight,) = network.parameters()
        self.places.append(weight.detach().clone())
        return weight.sum()

    def validate(self) -> dict[str, float]:
        return {"validation": 1.0}


def test_the_cosine() -> None:
    schedule = dataclasses.replace(SCHEDULES["modern"], initial=0.0, peak=1.0, warmup=1, epochs=5)
    found = [schedule.rate(step, 4) for step in range(20)]
    expected = [s / 4 for s in range(4)] + [0.5 * (1 + math.cos(math.pi * s / 16)) for s in range(16)]
    assert found == pytest.approx(expected)
