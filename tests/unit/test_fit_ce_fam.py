"""Fitting a branch: the same crop for both networks, pairs that are made once, losses that fall, runs that go on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from fit_process import QUICK, make_photos, pupil, teacher_of
from PIL import Image
from safetensors.torch import load, load_file
from torch import Tensor
from typer.testing import CliRunner

import conceptlens as cl
from conceptlens.cli.fit import app
from conceptlens.concept_regions.branch import pooled
from conceptlens.concept_regions.fit import pair_shards, pairs
from conceptlens.concept_regions.fit.fit_ce_fam import fit_ce_fam
from conceptlens.concept_regions.fit.pair_shards import (
    CropPlan,
    StudentTeacher,
    extract_pairs,
    failures_of,
    pooled_layers,
    shard_files,
)
from conceptlens.concept_regions.fit.pairs import mean_and_deviation, read_pairs
from conceptlens.concept_regions.translator import Translator
from conceptlens.io.images import fingerprint, read_image
from conceptlens.training.crops import centre_crop, is_validation, network_input, random_crop
from conceptlens.training.schedule import SCHEDULES, schedule_named
from tolerance import assert_agree


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"), 40)


@pytest.fixture(scope="module")
def model() -> cl.Backbone:
    return pupil()


@pytest.fixture(scope="module")
def vlm() -> cl.Backbone:
    return teacher_of()


def test_a_crop_comes_again_from_photo_view_and_seed_alone() -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    mark = fingerprint(photo)
    crops = [random_crop(photo, mark, view, seed) for view in range(30) for seed in range(2)]
    assert len({crop.tobytes() for crop in crops}) == 60
    assert random_crop(photo, mark, 3, 0).tobytes() == crops[6].tobytes()
    shares = [crop.width * crop.height / 5400 for crop in crops]
    assert 0.06 < min(shares) < 0.3 < 0.7 < max(shares) <= 1
    assert all(0.7 < crop.width / crop.height < 1.4 for crop in crops)
    flipped = [c.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes() in photo_parts(photo, c) for c in crops[:20]]
    assert 3 < sum(flipped) < 17


def photo_parts(photo: Image.Image, like: Image.Image) -> set[bytes]:
    width, height = like.size
    return {
        photo.crop((x, y, x + width, y + height)).tobytes()
        for x in range(photo.width - width + 1)
        for y in range(photo.height - height + 1)
    }


def test_a_long_strip_is_cropped_to_allowed_proportions() -> None:
    strip = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 4000, 3), dtype=np.uint8))
    assert random_crop(strip, "strip", 0, 0).size == (13, 10)
    assert centre_crop(strip).size == (9, 9)


def test_both_networks_get_the_same_crop_in_their_own_size_and_colours(model: cl.Backbone) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    other = dataclasses.replace(model, transform=cl.Preprocess((48, 48), (0.1,) * 3, (0.2,) * 3, "bicubic", 0.5))
    large, small = network_input(other, photo), network_input(model, photo)
    assert (large.shape, small.shape) == ((3, 48, 48), (3, 32, 32))
    values = np.asarray(photo.resize((48, 48), Image.Resampling.BICUBIC), np.float32) / 255
    assert np.allclose(large.permute(1, 2, 0).numpy(), (values - 0.1) / 0.2, atol=1e-5)
    with pytest.raises(cl.InputError, match=r"has a transform of its own, so it cannot .*cl\.Preprocess"):
        network_input(dataclasses.replace(model, transform=lambda photo: torch.zeros(3, 8, 8)), photo)


def test_the_held_out_share_is_by_photo_and_about_as_asked() -> None:
    held = [is_validation(f"{i:016x}", 0.1, 0) for i in range(4000)]
    assert 300 < sum(held) < 500
    assert held == [is_validation(f"{i:016x}", 0.1, 0) for i in range(4000)]
    assert held != [is_validation(f"{i:016x}", 0.1, 1) for i in range(4000)]


def test_pairs_hold_what_both_networks_say(
    model: cl.Backbone, vlm: cl.Backbone, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_shards, "BATCH_CROPS", 5)
    layers = ("first", "second")
    paths, views = sorted(photos.iterdir()), CropPlan(2, 0.2, 7)
    files = list(extract_pairs(StudentTeacher(model, layers, vlm), paths, views, tmp_path))
    shard = load_file(files[0])
    row = 0
    for path in paths:
        photo = read_image(path)
        mark = fingerprint(photo)
        held = is_validation(mark, 0.2, 7)
        for view in range(1 if held else 2):
            crop = centre_crop(photo) if held else random_crop(photo, mark, view, 7)
            observation = model.observe(network_input(model, crop)[None], layers)
            wanted = vlm.observe(network_input(vlm, crop)[None]).embedding[0]
            assert bool(shard["validation"][row]) == held
            assert torch.allclose(shard["features"][row], pooled(observation, layers)[0], atol=1e-5)
            assert torch.allclose(shard["vectors"][row], wanted, atol=1e-5)
            row += 1
    assert row == len(shard["validation"])
    assert not torch.allclose(shard["vectors"].norm(dim=1), torch.ones(row), atol=0.05)  # not normalised


def test_nothing_is_made_twice_and_bad_photos_are_noted(
    model: cl.Backbone, vlm: cl.Backbone, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_shards, "PHOTOS_PER_SHARD", 16)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not a photo")
    paths = [*sorted(photos.iterdir())[:30], bad, tmp_path / "missing.png"]
    about = (StudentTeacher(model, ("second",), vlm), paths, CropPlan(1, 0.2, 0), tmp_path / "cache")
    files = list(extract_pairs(*about))
    assert len(files) == 2
    assert [Path(f.name).name for f in failures_of(files)] == ["bad.png", "missing.png"]
    made: list[str] = []
    monkeypatch.setattr(pair_shards, "image_vectors", lambda *_: made.append("again"))
    assert list(extract_pairs(*about)) == files
    assert made == []
    monkeypatch.undo()
    monkeypatch.setattr(pair_shards, "PHOTOS_PER_SHARD", 16)

    kept = files[0].read_bytes()
    files[0].write_bytes(kept[:200])  # cut short: made again, the other is not
    touched = files[1].stat().st_mtime_ns
    list(extract_pairs(*about))
    assert torch.equal(load_file(files[0])["features"], load(kept)["features"])
    assert files[1].stat().st_mtime_ns == touched

    for change in ({"views": CropPlan(2, 0.2, 0)}, {"views": CropPlan(1, 0.2, 1)}, {"layers": ("first",)}, {"seed": 1}):
        other = StudentTeacher(pupil(1) if "seed" in change else model, change.get("layers", ("second",)), vlm)
        there = shard_files(other, paths, change.get("views", CropPlan(1, 0.2, 0)), tmp_path / "cache")
        assert there[0][0].parent != files[0].parent, change


def test_rows_are_the_same_from_memory_and_from_mapped_files(
    model: cl.Backbone, vlm: cl.Backbone, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_shards, "PHOTOS_PER_SHARD", 7)
    files = list(
        extract_pairs(StudentTeacher(model, ("second",), vlm), sorted(photos.iterdir()), CropPlan(2, 0.2, 0), tmp_path)
    )
    near = read_pairs(files)
    monkeypatch.setattr(pairs, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(pairs, "BATCH_ROWS", 5)
    far = read_pairs(files)
    assert len(far.features.parts) == 6
    index = torch.randperm(len(near.features), generator=torch.Generator().manual_seed(0))
    assert torch.equal(near.features.take(index), far.features.take(index))
    assert torch.equal(near.vectors.take(index), far.vectors.take(index))
    assert len(near.validation_features) == len(far.validation_features) > 0
    assert near.photos == 40
    mean, deviation = mean_and_deviation(far.features)
    rows = near.features.take(index)
    assert torch.allclose(mean, rows.mean(0), atol=1e-5)
    unused = rows.std(0) == 0
    expected = torch.where(unused, torch.ones(12), rows.std(0, correction=0))
    assert torch.allclose(deviation, expected, atol=1e-4)
    assert bool(unused.any())


def test_the_graph_free_features_are_those_of_an_observation(model: cl.Backbone) -> None:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    layers = ("first", "second")
    plain = pooled_layers(model, images, layers)
    assert not plain.requires_grad
    assert_agree(plain, pooled(model.observe(images, layers), layers).detach())


def test_the_schedules_are_those_of_paper_and_program() -> None:
    paper, code, modern = (SCHEDULES[name] for name in ("paper", "code", "modern"))
    assert (paper.optimiser, paper.initial, paper.peak, paper.epochs) == ("sgd", 0.1, 0.2, 150)
    assert (paper.patience, paper.factor, paper.stop, paper.weight_decay) == (4, 0.1, None, 0.0)
    assert (code.initial, code.peak, code.warmup, code.patience) == (0.1, 0.2, 1, 6)
    assert (code.factor, code.stop, code.batch_size) == (0.1, 10, 128)
    assert [code.rate(step, 10) for step in (0, 5, 10, 999)] == [0.1, pytest.approx(0.15), 0.2, None]
    assert modern.optimiser == "adamw"
    assert modern.rate(10, 10) == pytest.approx(modern.peak)
    assert modern.rate(modern.epochs * 10, 10) == pytest.approx(0)
    assert schedule_named("code", epochs=3).epochs == 3
    with pytest.raises(cl.InputError, match="no schedule 'papr'; use one of paper"):
        schedule_named("papr")
    with pytest.raises(cl.InputError, match="epochs=0 was given; expected at least 1"):
        schedule_named("code", epochs=0)


def test_a_run_learns_and_is_its_files(model: cl.Backbone, vlm: cl.Backbone, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    made = fit_ce_fam(model, vlm, photos, out, concepts=["cat", "dog"], epochs=12, **QUICK)
    history = json.loads((out / "history.json").read_text())
    assert [row["epoch"] for row in history] == list(range(1, 13))
    losses = [row["validation"] for row in history]
    assert losses[-1] < 0.7 * losses[0]
    assert history[0]["validation"] == pytest.approx(
        history[0]["validation_embedding"] + 0.001 * history[0]["validation_similarity"], rel=1e-5
    )
    assert made.training["validation_loss"] == pytest.approx(min(losses))
    assert {p.name for p in out.iterdir()} == {
        "branch.safetensors", "config.json", "run.json", "history.json", "failures.json", "cache", "logs"
    }  # fmt: skip
    assert list(out.glob("logs/events*"))
    again = Translator.load(out, vlm)
    observation = model.observe(sorted(photos.iterdir())[:2], layers=made.layers)
    assert torch.equal(again.encode_image(observation), made.encode_image(observation))


def test_what_was_standardised_is_folded_into_the_published_network(
    model: cl.Backbone, vlm: cl.Backbone, photos: Path, tmp_path: Path
) -> None:
    made = fit_ce_fam(model, vlm, photos, tmp_path, similarity_weight=0, epochs=3, **QUICK)
    pairs = read_pairs(sorted((tmp_path / "cache").glob("*/*.safetensors")))
    rows = torch.arange(len(pairs.validation_features))
    with torch.no_grad():
        loss = (made.branch(pairs.validation_features.take(rows)) - pairs.validation_vectors.take(rows)).square().mean()
    assert float(loss) == pytest.approx(made.training["validation_loss"], rel=1e-4)


class Silent:
    name = "silent"
    scale = 3.0
    normalised = True

    def encode_image(self, output: cl.Observation) -> Tensor:
        return output.embedding

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        raise AssertionError("a concept was read")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_similarity_no_concept_is_ever_read(
    model: cl.Backbone, vlm: cl.Backbone, photos: Path, tmp_path: Path, schedule: str
) -> None:
    silent = dataclasses.replace(vlm, text=Silent())
    made = fit_ce_fam(model, silent, photos, tmp_path / "a", similarity_weight=0, schedule=schedule, epochs=2, **QUICK)
    assert made.training["concepts"].startswith("0 concepts")
    with pytest.raises(AssertionError, match="a concept was read"):
        fit_ce_fam(model, silent, photos, tmp_path / "b", schedule=schedule, epochs=2, **QUICK)


def test_a_fit_that_found_too_few_photos_leaves_its_folder_free(
    model: cl.Backbone, vlm: cl.Backbone, photos: Path, tmp_path: Path
) -> None:
    few = sorted(photos.iterdir())[:1]
    with pytest.raises(cl.InputError, match="give more photos"):
        fit_ce_fam(model, vlm, few, tmp_path, similarity_weight=0, epochs=2, **QUICK)
    fit_ce_fam(model, vlm, photos, tmp_path, similarity_weight=0, epochs=2, **QUICK)
    assert (tmp_path / "branch.safetensors").is_file()


def test_a_folder_is_for_one_run(model: cl.Backbone, vlm: cl.Backbone, photos: Path, tmp_path: Path) -> None:
    first = fit_ce_fam(model, vlm, photos, tmp_path, similarity_weight=0, epochs=2, **QUICK)
    with pytest.raises(cl.InputError, match=r"holds a run already; go on with it by resume=True"):
        fit_ce_fam(model, vlm, photos, tmp_path, similarity_weight=0, epochs=2, **QUICK)
    with pytest.raises(cl.InputError, match=r"was another one: .*seed was 0 and is 1"):
        fit_ce_fam(model, vlm, photos, tmp_path, similarity_weight=0, epochs=2, seed=1, resume=True, **QUICK)
    with pytest.raises(cl.InputError, match=r"schedule_epochs was 2 and is 3"):
        fit_ce_fam(model, vlm, photos, tmp_path, similarity_weight=0, epochs=3, resume=True, **QUICK)
    again = fit_ce_fam(model, vlm, photos, tmp_path, similarity_weight=0, epochs=2, resume=True, **QUICK)
    assert all(torch.equal(a, b) for a, b in zip(first.branch.parameters(), again.branch.parameters(), strict=True))


def test_what_cannot_work_is_refused_first(model: cl.Backbone, vlm: cl.Backbone, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(cl.InputError, match="n_crops is 0"):
        fit_ce_fam(model, vlm, photos, out, n_crops=0)
    with pytest.raises(cl.InputError, match="validation is 1"):
        fit_ce_fam(model, vlm, photos, out, validation=1)
    with pytest.raises(cl.InputError, match="similarity_weight is -1"):
        fit_ce_fam(model, vlm, photos, out, similarity_weight=-1)
    with pytest.raises(cl.InputError, match="'head' of pupil 0 has no grid"):
        fit_ce_fam(model, vlm, photos, out, layers="head")
    with pytest.raises(cl.InputError, match="has no text encoder"):
        fit_ce_fam(model, dataclasses.replace(vlm, class_names=None), photos, out)
    assert not out.exists()
    few = make_photos(tmp_path / "few", 2)
    with pytest.raises(cl.InputError, match="of 2 photos none was left"):
        fit_ce_fam(model, vlm, few, out, similarity_weight=0, validation=0.001)
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(cl.InputError, match="no photo could be used"):
        fit_ce_fam(model, vlm, tmp_path / "bad.png", tmp_path / "out2", similarity_weight=0)


def test_a_loss_that_is_no_number_ends_the_run(
    model: cl.Backbone, vlm: cl.Backbone, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = dataclasses.replace(SCHEDULES["code"], initial=1e30, peak=1e30)
    monkeypatch.setitem(SCHEDULES, "code", wild)
    with pytest.raises(cl.InputError, match="training diverged; use schedule='modern'"):
        fit_ce_fam(model, vlm, photos, tmp_path, similarity_weight=0, schedule="code", **QUICK)


def test_training_ends_once_the_loss_has_not_fallen_for_as_long_as_the_schedule_waits(
    model: cl.Backbone, vlm: cl.Backbone, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = dataclasses.replace(SCHEDULES["code"], initial=0.0, peak=0.0, epochs=9, stop=2)  # its loss never changes
    monkeypatch.setitem(SCHEDULES, "code", still)
    made = fit_ce_fam(model, vlm, photos, tmp_path / "stops", similarity_weight=0, schedule="code", **QUICK)
    assert (made.training["epochs"], made.training["best_epoch"]) == (3, 1)
    assert len(json.loads((tmp_path / "stops" / "history.json").read_text())) == 3
    monkeypatch.setitem(SCHEDULES, "code", dataclasses.replace(still, stop=None))
    made = fit_ce_fam(model, vlm, photos, tmp_path / "goes on", similarity_weight=0, schedule="code", **QUICK)
    assert (made.training["epochs"], made.training["best_epoch"]) == (9, 1)


@pytest.mark.process
@pytest.mark.slow  # the loop is held to the same in make test, by the tasks of test_part_training_processes
@pytest.mark.parametrize("schedule", ["modern", "code"])
def test_killed_in_the_middle_it_ends_as_if_it_had_not_been(photos: Path, tmp_path: Path, schedule: str) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    call = [sys.executable, str(Path(__file__).with_name("fit_process.py")), str(photos)]
    subprocess.run([*call, str(whole), schedule], check=True, timeout=300)
    process = subprocess.Popen([*call, str(broken), schedule, "--slow"])
    killed = 0
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (broken / "checkpoint.safetensors").exists() and not (broken / "config.json").exists():
            time.sleep(0.15)
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
            process.wait()
    assert killed == 1
    assert process.returncode == -signal.SIGKILL
    assert not (broken / "config.json").exists()
    subprocess.run([*call, str(broken), schedule, "--resume"], check=True, timeout=300)
    assert (whole / "branch.safetensors").read_bytes() == (broken / "branch.safetensors").read_bytes()
    assert (whole / "history.json").read_bytes() == (broken / "history.json").read_bytes()
    assert not list(broken.glob("**/*.part"))


def test_the_command_trains_and_says_what_came_of_it(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {"toy:pupil": pupil(), "toy:teacher": teacher_of()}
    options: dict[str, Any] = {}

    def load_model(name: str, **given: Any) -> cl.Backbone:
        options.update(given)
        return models[name]

    monkeypatch.setattr("conceptlens.model.zoo.load_model", load_model)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no photo")
    out = str(tmp_path / "out")
    call = ["ce-fam", "--model", "toy:pupil", "--vlm", "toy:teacher", "--images", str(photos), "-i", str(bad)]
    call += ["--out-dir", out, "--epochs", "2", "--crops", "1", "--hidden", "8,6", "--concepts", "cat, red:colour"]
    (tmp_path / "names.txt").write_text("cat\ndog\ncar\ntree\n")
    own = ["--weights", "own.safetensors", "--class-names", str(tmp_path / "names.txt"), "--no-pretrained"]
    done = CliRunner().invoke(app, [*call, *own, "--layers", "second", "--batch-size", "16", "--json"])
    assert done.exit_code == 0, done.output
    assert (options["weights"], options["pretrained"]) == ("own.safetensors", False)
    assert options["class_names"] == ["cat", "dog", "car", "tree"]
    numbers = json.loads(done.stdout)
    assert numbers["schema"] == "conceptlens.fit-ce-fam/2"
    assert (numbers["photos"], numbers["epochs"], numbers["layers"]) == (40, 2, ["second"])
    assert numbers["layer_widths"] == [12, 8, 6, 14]
    assert [Path(failure["name"]).name for failure in numbers["failures"]] == ["bad.png"]
    assert "bad.png" in done.stderr
    assert "40 photos" in done.stderr

    again = CliRunner().invoke(app, [*call, "--layers", "second", "--batch-size", "16"])
    assert again.exit_code == 2
    assert "holds a run already" in again.stderr
    resumed = CliRunner().invoke(app, [*call, "--layers", "second", "--batch-size", "16", "--resume"])
    assert resumed.exit_code == 0
    assert "validation loss" in resumed.stdout
    for words in (["--hidden", "few"], ["--concepts-file", "x.txt"], ["--schedule", "modem"]):
        wrong = CliRunner().invoke(app, [*call, *words])
        assert wrong.exit_code == 2
        assert wrong.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_clip_teaches(kind: str, photos: Path, tmp_path: Path) -> None:
    folder = tiny_models.save_transformers(kind, tmp_path / kind)
    clip = cl.load_model(f"hf:{folder}")
    made = fit_ce_fam(pupil(), clip, photos, tmp_path / "out", concepts=["cat", "red:colour"], epochs=3, **QUICK)
    language = clip.language
    assert (made.normalised, made.scale, made.bias) == (True, language.scale, language.bias)
    assert torch.equal(made.encode_text(["a photo of a cat"]), language.encode_text(["a photo of a cat"]))
    again = Translator.load(tmp_path / "out")  # by its name
    assert again.encode_text(["a photo of a wheel"]).shape == (1, made.branch.dimension)
    observation = pupil().observe(sorted(photos.iterdir())[0], layers=again.layers)
    assert cl.cam(observation, cl.Concept("cat", by=again), layer="second").maps.shape == (1, 1, 4, 4)


def test_the_committed_result_holds_what_the_page_claims() -> None:
    text = (Path(__file__).parents[2] / "docs" / "results" / "fit.json").read_text(encoding="utf-8")
    result = json.loads(text)
    assert sorted(result) == ["details", "figures", "name"]
    figures, runs = result["figures"], result["details"]["runs"]
    assert {(run["case"], run["seed"]) for run in runs} >= {(name, s) for name in SCHEDULES for s in range(3)}
    for other in ("paper", "code"):
        lowest = min(run["validation_loss"] for run in runs if run["case"] == other)
        assert figures[f"modern_loss_at_a_fifth_of_{other}"] < lowest
        assert figures["modern_steps"] <= figures[f"{other}_steps"] / 5
    assert not any(place in text for place in ("/home/", "/root/", "/tmp/", "/work/"))
