"""Cells on disk: what is read again is what was made, and nothing is made twice, or for another network or view."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from fit_process import pupil
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import conceptlens as cl
from conceptlens.data.labelled_set import LabelledSet
from conceptlens.features import cell_source
from conceptlens.features.cell_source import CellBatch, CellSource
from conceptlens.io.errors import Failure

LAYERS, GRID, COUNT = ("first", "second"), (5, 3), 21


class Photos:
    """A labelled set as far as cells need one; it notes which photos are read."""

    def __init__(self, bad: Sequence[int] = (), count: int = COUNT) -> None:
        self.name, self.bad, self.read = "noise", set(bad), []
        self.names = [f"{place:02d}.png" for place in range(count)]
        self.labels = np.arange(count) % 2

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: int) -> Image.Image:
        self.read.append(place)
        if place in self.bad:
            raise cl.InputError(f"photo {place} is cut short")
        noise = np.random.default_rng(place).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        return Image.fromarray(noise).resize((64, 48))


@pytest.fixture(scope="module")
def model() -> cl.Backbone:
    return pupil()


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_source, "PHOTOS_PER_FILE", 8)


def source(model: cl.Backbone, photos: Photos, folder: Path | None, **other: Any) -> CellSource:
    made = CellSource(model, cast("LabelledSet", photos), LAYERS, GRID, folder)
    return dataclasses.replace(made, failures={}, **other)


def joined(batches: Sequence[CellBatch]) -> dict[str, Tensor]:
    names = batches[0].cells
    found = {name: torch.cat([batch.cells[name] for batch in batches]) for name in names}
    return found | {
        "indices": torch.cat([batch.indices for batch in batches]),
        "colours": torch.cat([batch.colours for batch in batches]),
    }


def test_cells_are_what_the_network_sees(model: cl.Backbone) -> None:
    photos = Photos()
    (batch,) = source(model, photos, None).batches([6, 2])
    assert batch.indices.tolist() == [2, 6]
    for row, place in enumerate((2, 6)):
        image = model.read_photo(photos[place])
        seen = image[None]
        for name in LAYERS:  # one follows the other
            seen = model.module.get_submodule(name)(seen).detach()
            assert torch.allclose(batch.cells[name][row], seen[0], atol=1e-5)
        assert torch.allclose(batch.colours[row], F.adaptive_avg_pool2d(image[None], GRID)[0], atol=1e-6)
    assert not batch.cells["first"].requires_grad


@pytest.mark.parametrize("places", [range(COUNT), [20, 3, 8, 4, 15, 0]])
def test_what_is_read_is_what_is_made_to_half_precision(
    model: cl.Backbone, tmp_path: Path, places: Sequence[int]
) -> None:
    plain = joined(list(source(model, Photos(), None).batches(places, 4)))
    photos = Photos()
    kept = source(model, photos, tmp_path)
    first = list(kept.batches(places, 4))
    assert max(len(batch.indices) for batch in first) <= 4
    assert sorted(photos.read) == sorted(
        {p for place in places for p in range(place // 8 * 8, place // 8 * 8 + 8)} & set(range(COUNT))
    )
    second = joined(list(kept.batches(places, 4)))
    assert len(photos.read) == len(set(photos.read))  # nothing is read a second time
    assert plain["indices"].tolist() == sorted(places)
    for name, value in plain.items():
        assert torch.equal(joined(first)[name], second[name])
        assert second[name].dtype == value.dtype
        assert torch.allclose(second[name].float(), value.float(), rtol=1e-3, atol=1e-4), name
    stored = load_file(sorted(tmp_path.glob("*/*.safetensors"))[0])
    assert {value.dtype for name, value in stored.items() if name != "indices"} == {torch.float16}


def test_values_too_large_for_half_precision_are_kept_whole(model: cl.Backbone, tmp_path: Path) -> None:
    loud = pupil()
    with torch.no_grad():
        loud.module.get_submodule("second.0").get_parameter("weight").mul_(1e7)
    plain = joined(list(source(loud, Photos(), None).batches(range(4))))
    kept = joined(list(source(loud, Photos(), tmp_path).batches(range(4))))
    assert float(plain["second"].max()) > 65504
    assert torch.allclose(kept["second"], plain["second"])


@pytest.mark.parametrize("left", [0, 7, 900, -1], ids=["empty", "no header", "cut short", "one byte short"])
def test_a_file_that_is_not_whole_is_made_again_alone(model: cl.Backbone, tmp_path: Path, left: int) -> None:
    files = list(source(model, Photos(), tmp_path).write_files())
    wanted = [file.read_bytes() for file in files]
    files[1].write_bytes(wanted[1][:left])
    (files[1].parent / f".{files[1].name}.abc.part").write_bytes(b"left by a process that was killed")
    touched = [file.stat().st_mtime_ns for file in files]
    photos = Photos()
    again = list(source(model, photos, tmp_path).write_files())
    assert photos.read == list(range(8, 16))
    assert [file.read_bytes() for file in again] == wanted
    assert [file.stat().st_mtime_ns == before for file, before in zip(again, touched, strict=True)] == [1, 0, 1]


def test_photos_that_cannot_be_read_are_left_out_and_listed(model: cl.Backbone, tmp_path: Path) -> None:
    bad = (0, 3, 20)
    found = []
    for folder in (None, tmp_path, tmp_path):  # made each time; made and kept; read, by a source that never saw them
        photos = Photos(bad)
        made = source(model, photos, folder)
        found.append(joined(list(made.batches(range(COUNT))))["indices"].tolist())
        assert sorted(made.failures) == list(bad)
        assert made.failures[3] == Failure("03.png", "photo 3 is cut short")
    assert found == [[place for place in range(COUNT) if place not in bad]] * 3
    assert photos.read == []


def test_where_every_photo_fails_nothing_is_yielded(model: cl.Backbone, tmp_path: Path) -> None:
    for folder in (None, tmp_path, tmp_path):
        made = source(model, Photos(range(8, 16)), folder)
        assert list(made.batches(range(8, 16))) == []
        assert list(made.batches([9])) == []
        assert joined(list(made.batches([7, 9, 16])))["indices"].tolist() == [7, 16]
    partly = source(model, Photos([2]), tmp_path / "partly")
    assert list(partly.batches([2])) == []


def test_processes_share_the_work(model: cl.Backbone, tmp_path: Path) -> None:
    made: list[list[Path]] = []
    read: list[int] = []
    for process in range(2):
        photos = Photos()
        made.append(list(source(model, photos, tmp_path).write_files((process, 2))))
        read += photos.read
    assert [len(files) for files in made] == [2, 1]
    assert not set(made[0]) & set(made[1])
    assert sorted(read) == list(range(COUNT))  # each photo by one of them
    photos = Photos()
    assert sorted(source(model, photos, tmp_path).write_files()) == sorted(made[0] + made[1])
    assert photos.read == []
    assert list(source(model, photos, None).write_files()) == []


def test_another_network_view_grid_or_set_has_another_key(model: cl.Backbone) -> None:
    photos = Photos()
    own = source(model, photos, None)
    view = model.transform
    assert isinstance(view, cl.Preprocess)
    wider = dataclasses.replace(model, transform=dataclasses.replace(view, size=(48, 48)), input_size=(48, 48))
    darker = dataclasses.replace(model, transform=dataclasses.replace(view, mean=(0.1, 0.2, 0.3)))
    renamed = Photos()
    renamed.names[5] = "other.png"
    others = {
        "weights": source(pupil(1), photos, None),
        "size": source(wider, photos, None),
        "colours": source(darker, photos, None),
        "layers": source(model, photos, None, layers=("second",)),
        "grid": source(model, photos, None, grid=(5, 4)),
        "set": source(model, renamed, None),
        "smaller set": source(model, Photos(count=20), None),
    }
    keys = {"own": own.key} | {name: other.key for name, other in others.items()}
    assert len(set(keys.values())) == len(keys), keys
    assert source(pupil(), Photos(), None).key == own.key  # the same again, made anew


def test_another_size_is_not_read_from_this_ones_files(model: cl.Backbone, tmp_path: Path) -> None:
    view = model.transform
    assert isinstance(view, cl.Preprocess)
    wider = dataclasses.replace(model, transform=dataclasses.replace(view, size=(48, 48)), input_size=(48, 48))
    small, large = (next(iter(source(one, Photos(), tmp_path).batches([0]))) for one in (model, wider))
    assert (small.cells["first"].shape[2:], large.cells["first"].shape[2:]) == ((8, 8), (12, 12))
    assert len(list(tmp_path.iterdir())) == 2


def test_the_room_that_is_needed_is_the_room_that_is_taken(model: cl.Backbone, tmp_path: Path) -> None:
    for bad in ((), (0, 1)):  # one photo tells it: the first that can be read
        made = source(model, Photos(bad), tmp_path)
        wanted = made.bytes_needed()
        assert wanted == COUNT * 2 * (10 * 8 * 8 + 12 * 4 * 4 + 3 * 5 * 3)
    taken = sum(file.stat().st_size for file in source(model, Photos(), tmp_path).write_files())
    assert wanted < taken < wanted + COUNT * 8 + 3 * 1000  # places and headers beside


@pytest.mark.parametrize("kept", [True, False])
def test_what_can_be_read_is_known_before(model: cl.Backbone, tmp_path: Path, kept: bool) -> None:
    made = source(model, Photos([3, 9]), tmp_path if kept else None)
    assert made.readable_indices([9, 4, 3, 0]) == [4, 0]
    assert sorted(made.failures) == [3, 9]


def test_a_network_without_a_view_is_refused(model: cl.Backbone) -> None:
    blind = dataclasses.replace(model, transform=None)
    with pytest.raises(cl.InputError, match=r"pupil 0 has no transform, so photos cannot be read; give Backbone"):
        list(source(blind, Photos(), None).batches([0]))


def test_embeddings_are_kept_whole(model: cl.Backbone, tmp_path: Path) -> None:
    """What enters the classifier, in single precision, read again as it was made; layers have files of their own."""
    photos = Photos()
    made = source(model, photos, tmp_path, layers=(cell_source.EMBEDDING,), grid=(1, 1))
    first = joined(list(made.batches([6, 2])))
    wanted = model.observe([photos[2], photos[6]]).embedding.detach()
    assert torch.allclose(first[cell_source.EMBEDDING][:, :, 0, 0], wanted, atol=1e-6)
    assert made.bytes_needed() == COUNT * (4 * 12 + 2 * 3)
    read = len(photos.read)
    again = joined(list(made.batches([6, 2])))
    assert torch.equal(again[cell_source.EMBEDDING], first[cell_source.EMBEDDING])
    assert len(photos.read) == read
    assert made.key != source(model, photos, tmp_path, grid=(1, 1)).key
