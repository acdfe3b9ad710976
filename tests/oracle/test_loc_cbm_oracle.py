"""How a bottleneck is trained, in plain loops: one step after another, ridge, pooling by parts, keypoints as heat."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from test_bottleneck_oracle import slow_alignment, slow_gaussians, slow_resized
from torch import Tensor, nn

from bottlenecks import cells, made
from conceptlens.bottleneck.fit import concept_layer
from conceptlens.bottleneck.fit.concept_layer import (
    ConceptMapTask,
    ConceptVectors,
    PooledCells,
    PooledCellsTask,
    pool_cells,
    ridge,
)
from conceptlens.bottleneck.fit.hypercolumns import Hypercolumns
from conceptlens.bottleneck.fit.part_discovery import (
    GuidedAttentionTask,
    PartAttentions,
    PartDiscovery,
    PartDiscoveryTask,
    pointed_at,
)
from conceptlens.bottleneck.fit.recipe import Recipe
from conceptlens.bottleneck.locator import Parts, WholeImage
from conceptlens.features.cell_source import CellBatch, CellSource
from conceptlens.io.errors import InputError
from conceptlens.training.loop import TrainingRun, TrainingTask, train_network
from conceptlens.training.schedule import StepSchedule

pytestmark = pytest.mark.wide

Array = np.ndarray
Named = dict[str, Array]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shares(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# --- one step of training


def slow_gradient(loss: Callable[[Named], float], weights: Named) -> Named:
    """Central differences, one weight after another."""
    found = {name: np.zeros_like(value) for name, value in weights.items()}
    for name, value in weights.items():
        for place in np.ndindex(value.shape):
            kept, sides = value[place], []
            for shift in (1e-5, -1e-5):
                value[place] = kept + shift
                sides.append(loss(weights))
            value[place] = kept
            found[name][place] = (sides[0] - sides[1]) / 2e-5
    return found


@dataclass
class SlowAdamW:
    """Decoupled weight decay (ICLR 2019, algorithm 2): `w -= r d w`, then `w -= r m / (sqrt v + 1e-8)`."""

    decay: float
    first: Named
    second: Named
    steps: int = 0

    def step(self, weights: Named, gradient: Named, rate: float) -> None:
        self.steps += 1
        for name, value in weights.items():
            for place in np.ndindex(value.shape):
                slope = gradient[name][place]
                self.first[name][place] = 0.9 * self.first[name][place] + 0.1 * slope
                self.second[name][place] = 0.999 * self.second[name][place] + 0.001 * slope**2
                mean = self.first[name][place] / (1 - 0.9**self.steps)
                square = self.second[name][place] / (1 - 0.999**self.steps)
                value[place] -= rate * self.decay * value[place]
                value[place] -= rate * mean / (math.sqrt(square) + 1e-8)


class Recorded:
    """A task that keeps its losses."""

    def __init__(self, task: TrainingTask) -> None:
        self.task, self.network, self.rows = task, task.network, task.rows
        self.losses: list[float] = []

    def loss(self, *arguments: Any) -> Tensor:
        loss = self.task.loss(*arguments)
        self.losses.append(float(loss.detach()))
        return loss


def check_steps(
    task: TrainingTask,
    steps: StepSchedule,
    slow: Callable[[Named, list[int], float], float],
    folder: Path,
    seed: int = 3,
) -> None:
    """Train a task, and the same by loops: every loss and every weight must agree."""
    weights = {name: value.detach().double().numpy().copy() for name, value in task.network.named_parameters()}
    before = {name: value.copy() for name, value in weights.items()}
    recorded = Recorded(task)
    run = TrainingRun(Accelerator(cpu=True, device_placement=False), folder, seed=seed)
    train_network(recorded, steps, run)
    losses = recorded.losses
    first, second = ({name: np.zeros_like(value) for name, value in weights.items()} for _ in range(2))
    optimiser = SlowAdamW(steps.weight_decay, first, second)
    shuffler = torch.Generator().manual_seed(seed)
    for step in range(steps.steps):
        batch = torch.randint(task.rows, (steps.batch_size,), generator=shuffler).tolist()
        done = step / steps.steps
        assert losses[step] == pytest.approx(slow(weights, batch, done), rel=1e-4, abs=1e-6), step
        gradient = slow_gradient(lambda at, batch=batch, done=done: slow(at, batch, done), weights)
        optimiser.step(weights, gradient, steps.learning_rate if done <= 0.5 else steps.learning_rate * 2 * (1 - done))
    assert len(losses) == steps.steps
    for name, value in task.network.named_parameters():
        assert np.allclose(value.detach().numpy(), weights[name], atol=2e-5), name
        assert not np.allclose(before[name], weights[name], atol=steps.learning_rate / 2), name


# --- finding parts from what is said of them


def slow_attention(attention: Array, columns: Array) -> Array:
    """`softmax_u <w_p, F(u)>`: `[part cell]` of one image."""
    parts, count = len(attention), columns.shape[1]
    found = np.zeros((parts, count))
    for p in range(parts):
        raised = [math.exp(sum(w * f for w, f in zip(attention[p], columns[:, u], strict=True))) for u in range(count)]
        for u in range(count):
            found[p, u] = raised[u] / sum(raised)
    return found


def slow_reader(weights: Named, seen: Array) -> list[float]:
    """The properties that one cell's colours show: a layer, a ReLU, a layer, a sigmoid."""
    hidden = [
        max(0.0, sum(w * x for w, x in zip(row, seen, strict=True)) + bias)
        for row, bias in zip(weights["reader.0.weight"], weights["reader.0.bias"], strict=True)
    ]
    said = [
        sum(w * x for w, x in zip(row, hidden, strict=True)) + bias
        for row, bias in zip(weights["reader.2.weight"], weights["reader.2.bias"], strict=True)
    ]
    return [1 / (1 + math.exp(-one)) for one in said]


def slow_centre(attention: Array, grid: tuple[int, int]) -> tuple[float, float]:
    """The mean place of an attention, as shares of the image: x, y."""
    rows, columns = grid
    x = sum(a * (u % columns + 0.5) / columns for u, a in enumerate(attention))
    y = sum(a * (u // columns + 0.5) / rows for u, a in enumerate(attention))
    return x, y


def slow_discovery(weights: Named, batch: list[int], task: PartDiscoveryTask) -> float:
    """The loss as the module's docstring writes it, term by term."""
    columns, readings = task.hypercolumns.columns.double().numpy(), task.hypercolumns.readings.double().numpy()
    told, terms = task.labels.double().numpy(), task.recipe
    parts, properties = task.known.shape
    said = apart = together = 0.0
    for n in batch:
        attention = slow_attention(weights["attention"], columns[n])
        read = [slow_reader(weights, readings[n, u]) for u in range(attention.shape[1])]
        for p, q in product(range(parts), range(properties)):
            if task.known[p, q]:
                seen = sum(a * one[q] for a, one in zip(attention[p], read, strict=True))
                said += (seen - told[n, p, q]) ** 2 / (len(batch) * parts)
        for p, other in product(range(parts), range(parts)):
            if p != other:
                dot = float(attention[p] @ attention[other])
                size = math.sqrt(attention[p] @ attention[p]) * math.sqrt(attention[other] @ attention[other])
                apart += dot / size / (len(batch) * parts * (parts - 1))
        for region in task.regions:
            centres = [slow_centre(attention[p], task.hypercolumns.grid) for p in region]
            middle = [sum(one[axis] for one in centres) / len(region) for axis in range(2)]
            for x, y in centres:
                together += ((x - middle[0]) ** 2 + (y - middle[1]) ** 2) / (len(region) * len(batch))
    small = sum(float(one) ** 2 for one in weights["attention"].flatten())
    return said + terms.apart * apart + terms.together * together + terms.small / 2 * small


def discovery(terms: Recipe) -> PartDiscoveryTask:
    columns = (drawn(7, 4, 6) * 1.5).half()
    seen = Hypercolumns(columns, drawn(7, 6, 9, seed=1), {}, torch.arange(7), (2, 3))
    known = torch.tensor([[True, True], [True, False], [False, True]])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = PartDiscovery(3, 4, 2)
        network.reader = nn.Sequential(nn.Linear(9, 3), nn.ReLU(), nn.Linear(3, 2))  # fewer units, for slow gradients
    with torch.no_grad():
        network.attention.mul_(20)  # so that attentions differ from the start
    return PartDiscoveryTask(network, seen, shares(7, 3, 2, seed=2), known, ((0, 1), (0, 2)), terms)


def test_finding_parts_step_by_step(tmp_path: Path) -> None:
    task = discovery(Recipe(apart=0.5, together=1.0, small=0.1))
    steps = StepSchedule(4, 5, 0.02, 0.3)  # the last of them at half the rate
    check_steps(task, steps, lambda weights, batch, done: slow_discovery(weights, batch, task), tmp_path)


def test_the_loss_over_all_photos_does_not_depend_on_chunks() -> None:
    task = discovery(Recipe())
    more = Hypercolumns(
        task.hypercolumns.columns.repeat(75, 1, 1),
        task.hypercolumns.readings.repeat(75, 1, 1),
        {},
        torch.arange(525),
        (2, 3),
    )
    repeated = PartDiscoveryTask(
        task.network, more, task.labels.repeat(75, 1, 1), task.known, task.regions, task.recipe
    )
    weights = {name: value.detach().double().numpy() for name, value in task.network.named_parameters()}
    slow = slow_discovery(weights, list(range(7)), task)
    assert task.whole_loss() == pytest.approx(slow, rel=1e-5)
    assert repeated.whole_loss() == pytest.approx(slow, rel=1e-5)  # two full chunks and a small one


def slow_guided(weights: Named, batch: list[int], task: GuidedAttentionTask) -> float:
    """Cross-entropy over the cells, the mean over what is told."""
    found = []
    for n in batch:
        attention = slow_attention(weights["attention"], task.columns[n].double().numpy())
        for p, heat in enumerate(task.wanted[n].double().numpy()):
            if heat.sum() > 0:
                found.append(-sum(h * math.log(a) for h, a in zip(heat, attention[p], strict=True)))
    return sum(found) / len(found)


def test_guided_attentions_step_by_step(tmp_path: Path) -> None:
    wanted = shares(6, 3, 8, seed=5) ** 4
    wanted[torch.tensor([0, 1, 4]), torch.tensor([2, 0, 1])] = 0  # nothing is told of these
    wanted = wanted / wanted.sum(2, keepdim=True).clamp_min(1e-12)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        task = GuidedAttentionTask(PartAttentions(3, 5), drawn(6, 5, 8).half(), wanted)
    steps = StepSchedule(4, 5, 0.05, 2.0)
    check_steps(task, steps, lambda weights, batch, done: slow_guided(weights, batch, task), tmp_path)


# --- the concept layer, by maps


def slow_radius(schedule: str, done: float, how: Recipe) -> float:
    """After the warm-up, from `first` to `last` over what is left."""
    first = how.first or 7.0
    t = (done - how.warmup) / (1 - how.warmup)
    if schedule == "fixed":
        return how.last
    if schedule == "exponential":
        return math.exp((1 - t) * math.log(first) + t * math.log(how.last))
    fallen = t if schedule == "linear" else math.sin(math.pi * t / 2) ** 2
    return first - (first - how.last) * fallen


def slow_pooled(map_: Array, temperature: float | None) -> float:
    if temperature is None:
        return sum(map_.flatten()) / map_.size
    raised = [math.exp(one / temperature) for one in map_.flatten()]
    return sum(one * share for one, share in zip(map_.flatten(), raised, strict=True)) / sum(raised)


def slow_map_loss(weights: Named, batch: list[int], done: float, seen: Array, wanted: Array, how: Recipe) -> float:
    """`c'_i = sum_u G_i A_i / sum_u G_i` against its target, the mean over the concepts (specification A3, 6-10)."""
    concepts, total = len(weights["weight"]), 0.0
    for i in range(concepts):
        plain, masked = [], []
        for n in batch:
            map_ = np.zeros(seen.shape[2:])
            for channel, y, x in product(*map(range, seen.shape[1:])):
                map_[y, x] += weights["weight"][i, channel] * seen[n, channel, y, x]
            plain.append(slow_pooled(map_, how.temperature if how.locator == "softmax" else None))
            if how.locator == "peaks" and done >= how.warmup:
                mask = slow_gaussians(map_, slow_radius(how.schedule, done, how), how.peaks)
                masked.append(sum(mask[cell] * map_[cell] for cell in np.ndindex(map_.shape)))
        target = [wanted[n, i] for n in batch]
        if not masked or not how.replace:
            total += slow_alignment(how.loss, plain, target) / concepts
        if masked:
            total += slow_alignment(how.loss, masked, target) / concepts
    return total


HOWS = {
    "label-free": Recipe(locator="whole", loss="cos3"),
    "correlation": Recipe(locator="whole", loss="mse"),
    "softmax": Recipe(locator="softmax", loss="mse", temperature=0.6),
    "cos3 masked": Recipe(locator="peaks", loss="cos3", first=4.0),
    "mse masked": Recipe(locator="peaks", loss="mse", first=4.0),
    "cosine": Recipe(locator="peaks", loss="mse", schedule="cosine", first=4.0, last=0.6),
    "exponential": Recipe(locator="peaks", loss="cos3", schedule="exponential", first=4.0, last=0.6, warmup=0.4),
    "fixed, from the start": Recipe(locator="peaks", loss="mse", schedule="fixed", first=7.0, warmup=0.0),
    "two peaks, added": Recipe(locator="peaks", loss="mse", first=4.0, peaks=2, replace=False),
    "raw": Recipe(locator="peaks", loss="raw", first=2.0),
}


def map_task(how: Recipe) -> tuple[ConceptMapTask, Array]:
    seen = drawn(9, 3, 4, 3, seed=7).relu()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return ConceptMapTask(
            ConceptVectors(2, 3), lambda rows: seen[rows], shares(9, 2, seed=8), how
        ), seen.double().numpy()


@pytest.mark.parametrize("how", HOWS.values(), ids=list(HOWS))
def test_concept_vectors_step_by_step(tmp_path: Path, how: Recipe) -> None:
    task, seen = map_task(how)
    wanted = task.targets.double().numpy()
    steps = StepSchedule(5, 7, 0.03, 0.1)

    def slow(weights: Named, batch: list[int], done: float) -> float:
        return slow_map_loss(weights, batch, done, seen, wanted, how)

    check_steps(task, steps, slow, tmp_path)


def told(task: ConceptMapTask, done: float) -> float:
    every = torch.arange(task.rows)
    return float(task.loss(task.network, every, every, lambda mine: mine, done).detach())


@pytest.mark.parametrize("loss", ["cos3", "mse", "cosine", "raw"])
def test_a_radius_without_end_is_the_unmasked_loss(loss: str) -> None:
    """Specification D, 2."""
    plain = told(map_task(Recipe(locator="whole", loss=loss))[0], 0.9)
    peaks = Recipe(locator="peaks", loss=loss, schedule="fixed", first=1e4)
    endless = told(map_task(replace(peaks, last=1e4))[0], 0.9)
    narrow = told(map_task(replace(peaks, last=0.7))[0], 0.9)
    assert endless == pytest.approx(plain, abs=1e-5)
    assert narrow != pytest.approx(plain, abs=1e-3)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "exponential"])
def test_the_radius_only_shrinks_and_only_after_the_warm_up(monkeypatch: pytest.MonkeyPatch, schedule: str) -> None:
    """Specification D, 2."""
    recipe = Recipe(locator="peaks", loss="mse", schedule=schedule, first=6.0, last=1.5, warmup=0.25)
    task, _ = map_task(recipe)
    asked: list[float] = []
    masks = concept_layer.peak_masks

    def watched(maps: Tensor, radius: float, count: int = 1) -> Tensor:
        asked.append(radius)
        return masks(maps, radius, count)

    monkeypatch.setattr(concept_layer, "peak_masks", watched)
    for step in range(100):
        told(task, step / 100)
        assert len(asked) == max(0, step - 24)
    assert asked[0] == pytest.approx(6.0)
    assert all(before > after for before, after in pairwise(asked))
    assert 1.5 < asked[-1] < 1.6
    assert told(task, 1.0) == pytest.approx(told(map_task(replace(recipe, schedule="fixed"))[0], 1.0))


# --- the concept layer, by pooled cells


class Given:
    """Cells that are there already, in two batches, as a `CellSource` would give them."""

    def __init__(self, seen: Mapping[str, Tensor], grid: tuple[int, int]) -> None:
        self.seen, self.grid, self.layers = dict(seen), grid, tuple(seen)

    def batches(self, places: Sequence[int], size: int = 32) -> Iterator[CellBatch]:
        order = torch.tensor(sorted(places))
        for rows in order.split(2):
            yield CellBatch(
                rows, {name: value[rows] for name, value in self.seen.items()}, torch.zeros(len(rows), 3, 1, 1)
            )


def given(seen: Mapping[str, Tensor], grid: tuple[int, int]) -> CellSource:
    return cast("CellSource", Given(seen, grid))


@pytest.mark.parametrize("grid", [(5, 4), (10, 8), (3, 2)])
@pytest.mark.parametrize("kind", ["whole", "parts"])
def test_pooling_by_parts(kind: str, grid: tuple[int, int]) -> None:
    bottleneck = made(kind, grid)
    seen = cells(5)
    assert isinstance(bottleneck.locator, WholeImage | Parts)
    pooled = pool_cells(given(seen, grid), [4, 0, 3], bottleneck.locator, "deep", grid, 5)
    assert pooled.indices.tolist() == [0, 3, 4]
    assert pooled.mask.tolist() == ([0, 0, 1, 2, 0] if kind == "parts" else [0] * 5)
    assert pooled.rows.shape == (3, 3 if kind == "parts" else 1, 6)
    for row, n in enumerate(pooled.indices.tolist()):
        values = [slow_resized(one, grid) for one in seen["deep"][n].double().numpy()]
        for concept in range(5):
            mask = np.full(grid, 1 / (grid[0] * grid[1]))
            chosen = bottleneck.locator
            if isinstance(chosen, Parts) and chosen.part[concept] >= 0:
                logits = np.zeros(grid)
                for name, weight in zip(chosen.layers, chosen.weight, strict=True):
                    for channel, w in enumerate(weight[int(chosen.part[concept])].detach().double().tolist()):
                        logits += w * slow_resized(seen[name][n, channel].double().numpy(), grid)
                mask = mask * 0.1 + 0.9 * np.exp(logits) / np.exp(logits).sum()
            slow = [sum(mask[cell] * one[cell] for cell in np.ndindex(grid)) for one in values]
            assert pooled.rows[row, pooled.mask[concept]].tolist() == pytest.approx(slow, abs=1e-5)
    weight = bottleneck.weight.detach()
    read = bottleneck({name: value[pooled.indices] for name, value in seen.items()}).activations.detach()
    assert torch.allclose(pooled.activations(weight, slice(None)), read, atol=1e-5)  # specification D, 1
    assert torch.allclose(pooled.activations(weight, torch.tensor([2, 0])), read[[2, 0]], atol=1e-5)


def test_pooled_cells_step_by_step(tmp_path: Path) -> None:
    rows, wanted = drawn(8, 2, 3).abs(), shares(8, 2, seed=4)
    pooled = PooledCells(rows, torch.tensor([1, 0]), torch.arange(8))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = PooledCellsTask(ConceptVectors(2, 3), pooled, wanted, "cos3")

    def slow(weights: Named, batch: list[int], done: float) -> float:
        total = 0.0
        for i, mask in enumerate((1, 0)):
            found = [float(weights["weight"][i] @ rows[n, mask].double().numpy()) for n in batch]
            total += slow_alignment("cos3", found, [float(wanted[n, i]) for n in batch]) / 2
        return total

    check_steps(task, StepSchedule(4, 6, 0.02), slow, tmp_path)


def slow_solved(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gauss's elimination, the largest pivot first."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for column in range(size):
        best = max(range(column, size), key=lambda row: abs(rows[row][column]))
        rows[column], rows[best] = rows[best], rows[column]
        for row in range(size):
            if row != column:
                factor = rows[row][column] / rows[column][column]
                rows[row] = [a - factor * b for a, b in zip(rows[row], rows[column], strict=True)]
    return [rows[i][size] / rows[i][i] for i in range(size)]


@pytest.mark.parametrize("strength", [1e-3, 0.1, 5.0])
def test_ridge_solves_each_concepts_normal_equations(strength: float) -> None:
    """`(P'P + strength n s I) w = P't` with s the mean square of P; no constant."""
    rows, wanted = drawn(20, 3, 4).abs(), shares(20, 5, seed=1)
    mask = torch.tensor([0, 2, 0, 1, 2])
    weight = ridge(PooledCells(rows, mask, torch.arange(20)), wanted, strength)
    for i, own in enumerate(mask.tolist()):
        p, t = rows[:, own].double().tolist(), wanted[:, i].double().tolist()
        square = sum(value**2 for row in p for value in row) / (20 * 4)
        gram = [
            [sum(p[n][a] * p[n][b] for n in range(20)) + (strength * 20 * square if a == b else 0) for b in range(4)]
            for a in range(4)
        ]
        right: list[float] = [sum(p[n][a] * t[n] for n in range(20)) for a in range(4)]
        assert weight[i].tolist() == pytest.approx(slow_solved(gram, right), rel=1e-5)


def test_ridge_does_not_see_the_scale_of_cells() -> None:
    rows, wanted = drawn(20, 1, 4).abs(), shares(20, 2, seed=1)
    mask = torch.zeros(2, dtype=torch.long)
    one, other = (ridge(PooledCells(rows * k, mask, torch.arange(20)), wanted, 0.05) for k in (1.0, 40.0))
    assert torch.allclose(one, other * 40, rtol=1e-4)


def test_cells_held_are_cells_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    source = given({"deep": drawn(6, 3, 4, 4)}, (2, 2))
    places, asked = [1, 3, 4, 5], torch.tensor([3, 0, 0, 2])
    near = concept_layer.layer_cells(source, places, "deep", (2, 2))
    monkeypatch.setattr(concept_layer, "MAX_CELL_BYTES", 0)
    far = concept_layer.layer_cells(source, places, "deep", (2, 2))
    for row, place in enumerate([5, 1, 1, 4]):
        slow = np.stack([slow_resized(one, (2, 2)) for one in drawn(6, 3, 4, 4)[place].double().numpy()])
        assert np.allclose(far(asked)[row].numpy(), slow, atol=1e-6)
        assert np.allclose(near(asked)[row].numpy(), slow, atol=2e-3)


# --- keypoints


@pytest.mark.parametrize("grid", [(7, 7), (3, 5)])
def test_keypoints_as_heat(grid: tuple[int, int]) -> None:
    rows, columns = grid
    xy = shares(4, 3, 2)
    visible = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 1, 0]]).bool()
    xy[~visible] = torch.nan  # what cannot be seen has no location
    own = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0]]).bool()
    heat = pointed_at(xy, visible, own, grid)
    for n, p in product(range(4), range(3)):
        near = [k for k in range(3) if visible[n, k] and own[p, k]]
        slow = np.zeros(rows * columns)
        for y, x in product(range(rows), range(columns)):
            if near:
                away = min(
                    (float(xy[n, k, 0]) - (x + 0.5) / columns) ** 2 + (float(xy[n, k, 1]) - (y + 0.5) / rows) ** 2
                    for k in near
                )
                slow[y * columns + x] = math.exp(-away / (2 * (0.6 / 7) ** 2))
        if near:
            slow /= slow.sum()
        assert heat[n, p].numpy() == pytest.approx(slow, abs=1e-6)


# --- what a training refuses


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    task, _ = map_task(Recipe(locator="whole", loss="raw"))
    task.targets[:] = torch.nan
    with pytest.raises(InputError, match="the loss is nan at step 1: training diverged; lower the rate"):
        train_network(
            task, StepSchedule(3, 4, 0.1), TrainingRun(Accelerator(cpu=True, device_placement=False), tmp_path)
        )


def test_a_batch_must_divide_by_the_processes(tmp_path: Path) -> None:
    three: Any = SimpleNamespace(num_processes=3)
    with pytest.raises(InputError, match=r"a batch of 10 rows cannot be shared by 3 processes; give a multiple of 3"):
        train_network(
            map_task(Recipe(locator="whole", loss="cos3"))[0], StepSchedule(3, 10, 0.1), TrainingRun(three, tmp_path)
        )
