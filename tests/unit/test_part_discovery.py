"""Parts found from what is said of them: the structure of words, planted parts, restarts, finer cells, keypoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from conceptlens.bottleneck.fit import fitted_locator
from conceptlens.bottleneck.fit import hypercolumns as hypercolumns_module
from conceptlens.bottleneck.fit.fitted_locator import find_parts, teach_parts
from conceptlens.bottleneck.fit.hypercolumns import hypercolumns
from conceptlens.bottleneck.fit.part_discovery import PartDiscoveryTask
from conceptlens.bottleneck.fit.part_vocabulary import PartVocabulary
from conceptlens.bottleneck.fit.recipe import Recipe
from conceptlens.concepts.concept_set import BottleneckConcept
from conceptlens.data.keypoints_in_view import KeypointsInView
from conceptlens.features.cell_source import CellBatch, CellSource
from conceptlens.io.errors import InputError
from conceptlens.training.loop import TrainingRun
from conceptlens.training.schedule import StepSchedule
from tolerance import assert_agree

pytestmark = pytest.mark.wide

PARTS, COLOURS = ("wing", "tail", "beak"), ("red", "green", "blue")
CONCEPTS = tuple(
    BottleneckConcept(f"{colour} {part}", part, None, colour, "colour") for part in PARTS for colour in COLOURS
)
ROWS, COLUMNS = 5, 6
LAYERS, ONCE, TWICE = ("deep",), Recipe(restarts=1), Recipe(restarts=2)

# --- words


def test_words_are_read_as_parts_and_shared_properties() -> None:
    concepts = [
        BottleneckConcept("red upper wing", "wing", "trunk", "red", "colour"),  # 0
        BottleneckConcept("water"),
        BottleneckConcept("red under wing", "wing", "trunk", "red", "colour"),  # 2
        BottleneckConcept("red belly", "belly", "trunk", "red", "colour"),  # 3
        BottleneckConcept("curved beak", "beak", "head", "curved", "shape"),  # of one part alone: not read
        BottleneckConcept("long tail", "tail", "trunk", "long", "shape"),  # 5
        BottleneckConcept("long beak", "beak", "head", "long", "shape"),  # 6
        BottleneckConcept("a wing", "wing", "trunk"),  # nothing is said of it
        BottleneckConcept("red tail", "tail", "trunk", "red", "heat"),  # another kind of red, of one part alone
    ]
    words = PartVocabulary.of(concepts)
    assert words.parts == ("wing", "belly", "beak", "tail")
    assert words.properties == ("red", "long")
    assert words.index == {0: (0, 0), 2: (0, 0), 3: (1, 0), 5: (3, 1), 6: (2, 1)}
    assert words.regions == ((0, 1, 3),)  # the head has one part alone

    targets = torch.arange(18).reshape(2, 9) / 20
    told, known = words.part_labels(targets)
    assert known.nonzero().tolist() == [[0, 0], [1, 0], [2, 1], [3, 1]]
    for n in range(2):
        t = targets[n]
        wanted = {(0, 0): (t[0] + t[2]) / 2, (1, 0): t[3], (3, 1): t[5], (2, 1): t[6]}
        for p, q in np.ndindex(4, 2):
            assert float(told[n, p, q]) == pytest.approx(float(wanted.get((p, q), 0.0)))


@pytest.mark.parametrize(
    ("concepts", "counts"),
    [
        ([BottleneckConcept("water"), BottleneckConcept("grass")], "0 parts and 0 shared properties"),
        ([c for c in CONCEPTS if c.part == "wing"], "1 parts and 0 shared properties"),
        ([CONCEPTS[0], CONCEPTS[4], CONCEPTS[8]], "3 parts and 0 shared properties"),
        ([replace(CONCEPTS[0], kind="a"), replace(CONCEPTS[3], kind="b")], "2 parts and 0 shared properties"),
    ],
)
def test_words_without_structure_are_refused(concepts: list[BottleneckConcept], counts: str) -> None:
    with pytest.raises(InputError, match=f"these name {counts}; use locator='peaks'"):
        PartVocabulary.of(concepts)


# --- planted parts


@dataclass(frozen=True, eq=False)
class Planted:
    """Photos of three parts, each in a cell of its own that a deep channel knows, in one colour or in none."""

    cells: Tensor
    colours: Tensor
    targets: Tensor
    index: Tensor
    grid: tuple[int, int] = (ROWS, COLUMNS)
    unread: tuple[int, ...] = ()
    early: Tensor | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        return ("deep",) if self.early is None else ("deep", "early")

    def batches(self, places: Sequence[int], size: int = 32) -> Iterator[CellBatch]:
        """What a `CellSource` gives, without the photos that cannot be read."""
        kept = sorted(place for place in places if place not in self.unread)
        for rows in torch.tensor(kept).split(size) if kept else ():
            early = {} if self.early is None else {"early": self.early[rows]}
            yield CellBatch(rows, {"deep": self.cells[rows], **early}, self.colours[rows])

    @property
    def source(self) -> CellSource:
        return cast("CellSource", self)


def planted(count: int = 300, seed: int = 0, scale: int = 1) -> Planted:
    """`scale`: how many deep cells lie along the side of one cell of the grid."""
    random = torch.Generator().manual_seed(seed)
    rows, columns = ROWS * scale, COLUMNS * scale
    order = torch.rand(count, ROWS * COLUMNS, generator=random).argsort(1)[:, :3]  # image part
    colour = torch.randint(4, (count, 3), generator=random)  # the last: none of those that are said
    paint = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.2, 0.1, 0.9], [0.5, 0.5, 0.5]])
    photo = 0.5 + 0.04 * torch.randn(count, 3, ROWS * COLUMNS, generator=random)
    deep = 0.2 * torch.randn(count, 8, ROWS * COLUMNS, generator=random)
    for part in range(3):
        at = order[:, part]
        photo[torch.arange(count), :, at] = paint[colour[:, part]] + 0.04 * torch.randn(count, 3, generator=random)
        deep[torch.arange(count), part, at] += 1
    deep = deep.reshape(count, 8, ROWS, COLUMNS).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    assert deep.shape[2:] == (rows, columns)
    targets = torch.nn.functional.one_hot(colour, 4)[..., :3].flatten(1).float()
    return Planted(deep, photo.reshape(count, 3, ROWS, COLUMNS), targets, order)


def run(folder: Path, seed: int = 0) -> TrainingRun:
    return TrainingRun(Accelerator(cpu=True, device_placement=False), folder, seed=seed)


def hits(weight: Tensor, seen: Planted) -> Tensor:
    """How often each part's attention is highest in the part's own cell."""
    logits = torch.einsum("nchw,pc->nphw", seen.cells, weight)
    logits = torch.nn.functional.adaptive_avg_pool2d(logits, seen.grid).flatten(2)
    return (logits.argmax(2) == seen.index).float().mean(0)


def test_planted_parts_are_found_from_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted_locator, "FIND", StepSchedule(200, 100, 0.02))
    photos, others, words = planted(), planted(seed=1), PartVocabulary.of(CONCEPTS)
    before = torch.random.get_rng_state()
    (weight,) = find_parts(
        photos.source, range(300), words, photos.targets, run(tmp_path / "a"), Recipe(restarts=2), LAYERS
    )
    assert torch.equal(torch.random.get_rng_state(), before)  # nobody else's numbers change
    assert weight.shape == (3, 8)
    assert float(hits(weight, others).min()) > 0.9
    assert float(hits(weight[[1, 2, 0]], others).max()) < 0.1  # each its own part, not another's
    shuffled = photos.targets[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    (lost,) = find_parts(photos.source, range(300), words, shuffled, run(tmp_path / "b"), ONCE, LAYERS)
    assert float(hits(lost, others).mean()) < 0.5  # what is said of other photos tells nothing


def test_targets_are_those_of_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places in any order, and photos that are left out: each keeps its own targets."""
    monkeypatch.setattr(fitted_locator, "FIND", StepSchedule(5, 20, 0.02))
    photos, words = planted(60), PartVocabulary.of(CONCEPTS)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    asked = [int(place) for place in order if place != 7]

    first = find_parts(
        photos.source, sorted(asked), words, photos.targets[sorted(asked)], run(tmp_path / "a"), ONCE, LAYERS
    )
    lossy = replace(photos, unread=(7,))
    second = find_parts(lossy.source, order.tolist(), words, photos.targets[order], run(tmp_path / "b"), ONCE, LAYERS)
    assert_agree(first[0], second[0])


def test_of_many_photos_some_are_drawn_with_their_own_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted_locator, "FIND", StepSchedule(200, 100, 0.02))
    monkeypatch.setattr(fitted_locator, "MAX_PHOTOS", 200)
    photos, others, words = planted(600), planted(seed=1), PartVocabulary.of(CONCEPTS)
    read: set[int] = set()

    class Watched(Planted):
        def batches(self, places: Sequence[int], size: int = 32) -> Iterator[CellBatch]:
            read.update(places)
            return super().batches(places, size)

    watched = Watched(photos.cells, photos.colours, photos.targets, photos.index)
    (weight,) = find_parts(watched.source, range(600), words, photos.targets, run(tmp_path), ONCE, LAYERS)
    assert len(read) == 200
    assert max(read) > 400  # not the first ones
    assert float(hits(weight, others).min()) > 0.9


def test_the_seed_says_where_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted_locator, "FIND", StepSchedule(5, 20, 0.02))
    photos, words = planted(60), PartVocabulary.of(CONCEPTS)
    found = [
        find_parts(photos.source, range(60), words, photos.targets, run(tmp_path / name, seed), ONCE, LAYERS)[0]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=1e-3)


def test_of_several_restarts_the_lowest_loss_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted_locator, "FIND", StepSchedule(10, 20, 0.02))
    photos, words = planted(60), PartVocabulary.of(CONCEPTS)
    seen = hypercolumns(photos.source, range(60), LAYERS)
    tried: list[Tensor] = []
    losses = [0.3, 0.1, 0.2]

    def told(self: PartDiscoveryTask) -> float:
        tried.append(self.network.get_parameter("attention").detach().clone())
        return losses[len(tried) - 1]

    monkeypatch.setattr(PartDiscoveryTask, "whole_loss", told)
    found = find_parts(photos.source, range(60), words, photos.targets, run(tmp_path), Recipe(restarts=3), LAYERS)
    assert len(tried) == 3
    assert torch.allclose(found[0], seen.weights(tried[1])[0])
    assert not torch.allclose(tried[0], tried[1], atol=1e-2)
    assert not torch.allclose(tried[1], tried[2], atol=1e-2)


def test_a_good_minimum_is_told_by_its_loss() -> None:
    """Attentions in each other's places have a higher loss: what is said of one is not true of the other."""
    photos = planted(200)
    seen, words = hypercolumns(photos.source, range(200), LAYERS), PartVocabulary.of(CONCEPTS)
    told, known = words.part_labels(photos.targets)
    right = torch.zeros(200, 3, ROWS * COLUMNS).scatter_(2, photos.index[..., None], 1.0)
    losses = []
    for attention in (right, right[:, [1, 0, 2]], right.roll(1, 2)):
        network = _Pointing(attention, photos.colours.flatten(2))
        task = PartDiscoveryTask(
            network, replace(seen, columns=_rows(200)), told, known, (), Recipe(apart=0, together=0, small=0)
        )
        losses.append(task.whole_loss())
    assert losses[0] < 0.1 * min(losses[1:])


class _Pointing(torch.nn.Module):
    """Attention that is given, and a reader that knows the colours."""

    def __init__(self, wanted: Tensor, photo: Tensor) -> None:
        super().__init__()
        self.attention = torch.nn.Parameter(torch.zeros(3, 1))
        self.wanted, self.photo = wanted, photo

    def forward(self, columns: Tensor, readings: Tensor) -> tuple[Tensor, Tensor]:
        rows = columns[:, 0].long()
        paint = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.2, 0.1, 0.9]])
        photo = self.photo[rows].transpose(1, 2)
        shows = ((photo[:, :, None] - paint).square().sum(3) < 0.1).float()
        return (self.wanted[rows] + 1e-9).log(), torch.einsum("npu,nuq->npq", self.wanted[rows], shows)


def _rows(count: int) -> Tensor:
    return torch.arange(count)[:, None].float()


# --- finer cells, keypoints


def test_finer_cells_learn_from_those_at_the_networks_own_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted_locator, "FIND", StepSchedule(200, 100, 0.02))
    monkeypatch.setattr(fitted_locator, "GUIDE", StepSchedule(150, 100, 0.05))
    photos, sharp = planted(), planted(scale=2)
    turned = replace(sharp, cells=sharp.cells.flip(1))  # other channels: only what the coarse ones found can tell
    words = PartVocabulary.of(CONCEPTS)
    (weight,) = find_parts(photos.source, range(300), words, photos.targets, run(tmp_path), ONCE, LAYERS, turned.source)
    assert float(hits(weight, turned).min()) > 0.9


def test_finer_cells_need_the_same_grid_and_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted_locator, "FIND", StepSchedule(2, 20, 0.02))
    photos, words = planted(40), PartVocabulary.of(CONCEPTS)
    wider = replace(photos, grid=(ROWS, COLUMNS + 1), colours=torch.rand(40, 3, ROWS, COLUMNS + 1))

    fewer = replace(photos, unread=(7,))
    for number, finer in enumerate((wider, fewer)):
        with pytest.raises(InputError, match="the two sizes of a photo need one grid and the same photos"):
            find_parts(
                photos.source, range(40), words, photos.targets, run(tmp_path / str(number)), ONCE, LAYERS,
                finer.source,
            )  # fmt: skip


def test_a_few_keypoints_teach_the_parts(tmp_path: Path) -> None:
    photos, others = planted(20), planted(seed=1)
    places = tuple(range(19, 3, -1))  # 16 photos, out of order
    row, column = photos.index[list(places)] // COLUMNS, photos.index[list(places)] % COLUMNS
    xy = torch.stack([(column + 0.5) / COLUMNS, (row + 0.5) / ROWS], 2)
    xy = torch.cat([xy, torch.rand(16, 1, 2, generator=torch.Generator().manual_seed(0))], 1)  # a keypoint of no part
    visible = torch.ones(16, 4).bool()
    visible[[0, 5], [2, 1]] = False
    own = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]).bool()
    seen = KeypointsInView(("wing", "tail", "beak", "eye"), xy, visible, torch.ones(16, 2))
    (weight,) = teach_parts(photos.source, places, seen, own, run(tmp_path), LAYERS)
    assert float(hits(weight, others).min()) > 0.8  # by chance 1 in 30
    (other,) = teach_parts(photos.source, places, seen, own[[1, 0, 2]], run(tmp_path / "swapped"), LAYERS)
    assert float(hits(other[[1, 0, 2]], others).min()) > 0.8


# --- hypercolumns


def test_weights_in_channels_attend_as_weights_of_components_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypercolumns_module, "COMPONENTS", 4)
    photos = planted(50)
    early = torch.rand(50, 5, 2 * ROWS, 2 * COLUMNS, generator=torch.Generator().manual_seed(3)) * 30
    two = replace(photos, early=early)
    seen = hypercolumns(two.source, range(50), two.layers)
    assert seen.columns.shape == (50, 8, ROWS * COLUMNS)
    attention = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    wanted = torch.einsum("ncu,pc->npu", seen.columns.float(), attention).softmax(2)
    deep, own = seen.weights(attention)
    assert (deep.shape, own.shape) == ((3, 8), (3, 5))
    logits = torch.einsum("nchw,pc->nphw", photos.cells, deep)
    finer = torch.einsum("nchw,pc->nphw", early, own)
    logits = (logits + torch.nn.functional.adaptive_avg_pool2d(finer, photos.grid)).flatten(2)
    assert torch.allclose(logits.softmax(2), wanted, atol=2e-3)
    alone = hypercolumns(two.source, range(50), ["early"])
    assert list(alone.projections) == ["early"]


def test_components_are_the_principal_ones_at_one_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypercolumns_module, "COMPONENTS", 3)
    photos = planted(200)
    seen = hypercolumns(photos.source, range(200), LAYERS)
    basis = seen.projections["deep"].basis
    assert torch.allclose(basis.T @ basis, torch.eye(3), atol=1e-5)
    rows = photos.cells.transpose(0, 1).flatten(1).T.double().numpy()
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    inside = np.linalg.svd(vectors[:, -3:].T @ basis.double().numpy(), compute_uv=False)
    assert inside.min() > 0.95  # the same plane, from a third of the cells
    assert float(seen.columns.float().var((0, 2)).mean()) == pytest.approx(1, abs=0.1)
    assert seen.projections["deep"].scale == pytest.approx(np.sqrt(values[-3:].mean()), rel=0.1)
    flat = seen.readings.flatten(0, 1)
    assert torch.allclose(flat.mean(0), torch.zeros(9), atol=1e-4)
    assert torch.allclose(flat.std(0), torch.ones(9), atol=1e-3)


def test_without_any_photo_there_is_nothing_to_see() -> None:
    nothing = replace(planted(5), unread=(0, 1, 2, 3, 4))
    with pytest.raises(InputError, match="no photo could be read"):
        hypercolumns(nothing.source, range(5), LAYERS)
