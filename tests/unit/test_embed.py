"""Embedding a data set: what is in the store, whatever happens on the way."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from embed_process import LAYERS, small_model, small_plan
from PIL import Image

import conceptlens as cl
from conceptlens.data.masked_set import MaskedPhoto, MaskedSet
from conceptlens.local_embeddings.runs.embed_plan import PUBLISHED, Noise
from conceptlens.local_embeddings.runs.embed_run import EmbedProgress, embed_batches
from conceptlens.local_embeddings.runs.search_query import embed_query
from conceptlens.store import Store

pytestmark = pytest.mark.wide

PROCESS = Path(__file__).with_name("embed_process.py")


def run(
    data: MaskedSet, folder: Path, model: cl.Backbone | None = None, **settings: Any
) -> tuple[Store, EmbedProgress]:
    store = Store(folder, create=True)
    resume = settings.pop("resume", False)
    *_, last = embed_batches(data, model or small_model(), small_plan(**settings), store, resume)
    return store, last


def told(store: Store) -> dict[str, Any]:
    """All that a store holds of its runs, but times."""
    found: dict[str, Any] = {"images": store.images(), "masks": store.masks()}
    for layer in store.layers():
        rows = store.embeddings(layer.layer, layer.model, layer.mode)
        found[layer.layer] = {
            name: getattr(rows, name).tolist()
            for name in ("ids", "images", "concepts", "types", "groups", "masks", "areas", "converged")
        }
        found[f"{layer.layer} numbers"] = np.nan_to_num(
            np.column_stack([rows.vectors, rows.ious, rows.losses, rows.control_ious])
        )
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        bool(np.allclose(value, other[name], atol=1e-6)) if isinstance(value, np.ndarray) else value == other[name]
        for name, value in one.items()
    )


class Some:
    """Chosen photos of a set, some of them spoiled."""

    def __init__(self, of: MaskedSet, places: Sequence[int], broken: Sequence[int] = (), blank: Sequence[int] = ()):
        self.of, self.places, self.broken, self.blank = of, places, broken, blank
        self.name, self.concepts, self.names = of.name, of.concepts, [of.names[place] for place in places]

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Any:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> MaskedPhoto:
        if place in self.broken:
            raise cl.InputError(f"{self.names[place]} is truncated")
        one = self.of[self.places[place]]
        if place in self.blank:
            return replace(one, concepts=(), groups=(), masks=one.masks[:0])
        return one


def test_each_row_is_what_loce_gives_for_its_photo_and_mask(tmp_path: Path) -> None:
    data, model = cl.open_set("drawn:4"), small_model()
    for mode in ("mean_difference", "exact", "paper"):
        store, last = run(data, tmp_path / mode, mode=mode)
        (row,) = store.runs()
        assert (last.photos, last.failures) == (4, 0)
        assert row.counts == {"photos": 4, "embeddings": last.embeddings, "failures": 0}
        assert last.embeddings == 2 * sum(len(one.masks) for one in data)
        for layer in LAYERS:
            rows = store.embeddings(layer)
            scale = {layer: torch.tensor(row.settings["scales"][layer])}
            observed = {name: model.observe(one.photo, layer) for name, one in zip(data.names, data, strict=True)}
            for number in range(len(rows)):
                image = next(one for one in store.images() if one.id == rows.images[number])
                mask = store.mask(rows.masks[number])
                wanted = cl.loce(observed[image.name], mask, layer, mode=mode, scale=scale)  # pyright: ignore[reportArgumentType]
                assert wanted.vectors is not None
                cosine = torch.nn.functional.cosine_similarity(
                    torch.from_numpy(rows.vectors[number]), wanted.vectors[0, 0], dim=0
                )
                assert float(cosine) > 0.9999
                assert float(rows.ious[number]) == pytest.approx(float(wanted.diagnostics["iou"]), abs=2e-3)
                assert rows.areas[number] == pytest.approx(mask.mean())


@pytest.mark.parametrize("mode", ["mean_difference", "exact"])
def test_the_control_is_the_mask_nearest_in_size_of_the_next_three_photos(tmp_path: Path, mode: str) -> None:
    data, model = cl.open_set("drawn:6"), small_model()
    store, _ = run(data, tmp_path / "with", mode=mode)
    (row,) = store.runs()
    rows = store.embeddings("second")
    names = {one.id: one.name for one in store.images()}
    scale = {"second": torch.tensor(row.settings["scales"]["second"])}
    last_photos = 0
    for number in range(len(rows)):
        place = data.names.index(names[rows.images[number]])
        mask = store.mask(rows.masks[number])
        others = [other for step in (1, 2, 3) for other in data[(place + step) % 6].masks]
        sizes = [abs(np.log(other.mean() / mask.mean())) for other in others]
        chosen = others[int(np.argmin(sizes))]
        observation = model.observe(data[place].photo, "second")
        wanted = cl.loce(observation, mask, "second", mode, scale=scale, control=chosen)  # pyright: ignore[reportArgumentType]
        assert float(rows.control_ious[number]) == pytest.approx(float(wanted.diagnostics["control_iou"]), abs=2e-3)
        assert float(rows.selectivities[number]) == pytest.approx(float(wanted.diagnostics["selectivity"]), abs=4e-3)
        last_photos += place == 5
    assert last_photos, "the last photo's controls are the first ones'"
    assert np.ptp(rows.control_ious) > 0.05


def test_a_control_need_not_be_asked_for_and_one_photo_has_none(tmp_path: Path) -> None:
    without, _ = run(cl.open_set("drawn:4"), tmp_path / "without", control=False)
    alone, last = run(cl.open_set("drawn:4"), tmp_path / "alone", max_photos=1)
    assert (last.photos, last.total) == (1, 1)
    for store in (without, alone):
        assert len(store.embeddings("second"))
        assert np.isnan(store.embeddings("second").control_ious).all()


def test_rows_do_not_depend_on_the_size_of_batches(tmp_path: Path) -> None:
    data = cl.open_set("drawn:7")
    stores = [run(data, tmp_path / str(size), batch_size=size)[0] for size in (1, 4, 16)]
    tables = [np.sort(store.embeddings("first").vectors, axis=0) for store in stores]
    assert all(np.allclose(tables[0], other, atol=1e-5) for other in tables[1:])


def test_a_photo_that_fails_leaves_the_others(tmp_path: Path) -> None:
    data = Some(cl.open_set("drawn:8"), range(8), broken=(1, 6), blank=(2,))
    store, last = run(data, tmp_path / "store")
    assert (last.photos, last.total, last.failures) == (8, 8, 2)
    assert {row.name: row.failure for row in store.failures()} == {
        data.names[place]: f"{data.names[place]} is truncated" for place in (1, 6)
    }
    whole, _ = run(cl.open_set("drawn:8"), tmp_path / "whole")
    there = set(store.embeddings("first").concepts)
    assert there <= set(whole.embeddings("first").concepts)
    assert len(store.images()) == 8
    broken = {row.id for row in store.failures()}
    assert not broken & set(store.embeddings("first").images)


def test_values_that_are_not_finite_are_the_failure_of_their_photo(tmp_path: Path) -> None:
    model = small_model()
    bright = torch.tensor(0.0)

    def spoil(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        bad = output.mean((1, 2, 3)) == output.mean((1, 2, 3)).max()
        bright.add_(1)
        return torch.where((bad & (len(output) > 1))[:, None, None, None], float("nan"), output)

    model.module.get_submodule("second").register_forward_hook(spoil)
    store, last = run(cl.open_set("drawn:6"), tmp_path / "store", model=model)
    assert last.failures == 2
    assert all("layer 'second' gives values that are not finite" in str(row.failure) for row in store.failures())
    assert np.isfinite(store.embeddings("first").vectors).all()


def test_a_run_is_taken_up_only_where_it_is_asked_for(tmp_path: Path) -> None:
    data = cl.open_set("drawn:5")
    store, first = run(data, tmp_path / "store")
    before = told(store)
    with pytest.raises(cl.InputError, match="already has 5 photos of this run"):
        run(data, tmp_path / "store")
    _, again = run(data, tmp_path / "store", resume=True)
    assert again == first
    assert same(told(store), before)
    run(data, tmp_path / "store", mode="exact")  # another run in the same store
    assert len(store.runs()) == 2
    assert len(store.images()) == 10
    assert len({row.id for row in store.images()}) == 5


def test_a_run_that_goes_on_further_with_other_batches_counts_each_photo_once(tmp_path: Path) -> None:
    data = cl.open_set("drawn:7")
    whole, wanted = run(data, tmp_path / "whole")
    run(data, tmp_path / "store", batch_size=2, max_photos=3)
    store, last = run(data, tmp_path / "store", batch_size=4, resume=True)
    assert (last.photos, last.total, last.embeddings) == (7, 7, wanted.embeddings)
    assert store.runs()[0].counts == whole.runs()[0].counts
    assert [row.id for row in store.images()] == [row.id for row in whole.images()]


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 20])
def test_killed_at_any_moment_a_run_ends_with_the_same_store(tmp_path: Path, kills: int) -> None:
    photos = 40
    whole, _ = run(cl.open_set(f"drawn:{photos}"), tmp_path / "whole")
    dice = random.Random(kills)
    place, reached, midway = tmp_path / "killed", 0, 0
    command = [sys.executable, str(PROCESS), str(place), str(photos)]
    for _ in range(kills):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            observation = rest = process.stdout.readline()  # it is at work
            for _ in range(dice.randrange(1, 6)):
                rest = process.stdout.readline() or rest
            time.sleep(dice.random() * 0.05)
            process.kill()
            rest = [rest.strip(), *process.stdout.read().split()]
        assert int(observation or 0) >= reached  # what was there is there
        midway += 0 < int(rest[-1]) < photos
        reached = int(rest[-1])
        if reached == photos:  # begin again, so that every kill has something to cut off
            assert same(told(Store(place)), told(whole))
            shutil.rmtree(place)
            reached = 0
            continue
        store = Store(place)
        there = {row.id for row in store.images()}
        for layer in LAYERS:
            assert set(store.embeddings(layer).images) <= there
    assert midway >= kills / 2, "kills that came between the first batch and the end"
    assert subprocess.run(command, check=False).returncode == 0
    assert same(told(Store(place)), told(whole))


@pytest.mark.gpu
def test_a_model_on_cuda_embeds_what_one_on_the_processor_embeds(tmp_path: Path) -> None:
    data = cl.open_set("drawn:4")
    here, _ = run(data, tmp_path / "here")
    there, _ = run(data, tmp_path / "there", small_model().to("cuda"))
    for layer in LAYERS:
        assert np.allclose(here.embeddings(layer).vectors, there.embeddings(layer).vectors, atol=1e-3)


def test_noise_is_drawn_by_place_and_seed(tmp_path: Path) -> None:
    data = cl.open_set("drawn:4")
    plain, _ = run(data, tmp_path / "plain")
    noisy = [
        run(data, tmp_path / name, noise=Noise.parse(noise), seed=seed)[0]
        for name, noise, seed in (("a", "gaussian:0.2", 0), ("b", "gaussian:0.2", 1), ("c", "salt_and_pepper:0.1", 0))
    ]
    vectors = [np.sort(store.embeddings("second").vectors, axis=0) for store in (plain, *noisy)]
    assert all(not np.allclose(vectors[a], vectors[b], atol=1e-4) for a in range(4) for b in range(a))


def test_noise_does_what_it_says() -> None:
    photo = cl.open_set("drawn:1")[0].photo
    plain = np.asarray(photo, float)
    grainy = np.asarray(Noise("salt_and_pepper", 0.3).apply(photo, (0, 1)), float)
    changed = (grainy != plain).any(2)
    assert changed.mean() == pytest.approx(0.3, abs=0.02)
    assert set(np.unique(grainy[changed])) == {0.0, 255.0}
    wide = np.asarray(Noise("gaussian", 0.1).apply(photo.point(lambda _: 128), (0, 1)), float)
    assert wide.std() == pytest.approx(25.5, rel=0.05)
    assert Noise().apply(photo, (0,)) is photo
    for wrong in ("gaussian", "gaussian:x", "fog:1", "none:0.5", "gaussian:2"):
        with pytest.raises(cl.InputError, match="noise"):
            Noise.parse(wrong)


def test_the_published_input_is_named_and_used(tmp_path: Path) -> None:
    plan = small_plan(crop_mode="published")
    prepared = plan.prepared(small_model()).transform
    assert prepared == PUBLISHED
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (333, 500, 3), np.uint8))
    wanted = np.asarray(photo.resize((640, 480), Image.Resampling.BICUBIC), np.float32) / 255
    assert prepared is not None
    assert np.abs(prepared(photo).permute(1, 2, 0).numpy() - wanted).max() < 1e-6
    store, _ = run(cl.open_set("drawn:2"), tmp_path / "store", crop_mode="published")
    (row,) = store.runs()
    assert row.settings["crop_mode"] == "published"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"min_area": 1.0}, "min_area=1.0"),
        ({"input_size": (0, 5)}, "input_size="),
        ({"crop_mode": "mine"}, "crop_mode='mine'"),
    ],
)
def test_a_plan_without_sense_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(cl.InputError, match=said):
        small_plan(**wrong)


def test_a_query_is_found_where_it_came_from(tmp_path: Path) -> None:
    data = cl.open_set("drawn:6")
    store, _ = run(data, tmp_path / "store")
    one = data[2]
    found = embed_query(store, one.photo, one.masks[0], "second", model=small_model())
    nearest = store.nearest(found.vector, 1, layer=found.layer)
    assert np.array_equal(store.mask(nearest.rows.masks[0]), one.masks[0])
    assert float(nearest.distances[0]) < 1e-5
    with pytest.raises(cl.InputError, match="mask is empty"):
        embed_query(store, one.photo, one.masks[0] & False, model=small_model())
    with pytest.raises(cl.InputError, match="no layer 'third'"):
        embed_query(store, one.photo, one.masks[0], "third", model=small_model())
    other = small_model()
    with torch.no_grad():
        other.module.get_submodule("head").weight.add_(1)  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(cl.InputError, match="other weights"):
        embed_query(store, one.photo, one.masks[0], model=other)
