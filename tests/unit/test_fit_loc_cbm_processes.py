"""Fits in processes of their own: two make the bottleneck that one makes, and one that was killed goes on to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from drawn_birds import write_birds
from fit_bottleneck_process import FIND, FITS, fit_all
from fit_process import pupil
from safetensors.torch import load_file
from test_fit_ce_fam_processes import launch

from conceptlens.bottleneck.fit import fitted_locator
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.data.labelled_sets import open_classes

pytestmark = pytest.mark.process

SCRIPT = Path(__file__).with_name("fit_bottleneck_process.py")
FILES = ("bottleneck.safetensors", "config.json", "failures.json", "run.json")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two files of cells; one photo cannot be read."""
    folder = write_birds(tmp_path_factory.mktemp("birds"), train=23)
    bad = next((folder / "images" / "002.Bay_Tern").glob("0003*"))
    bad.write_bytes(bad.read_bytes()[:60] + bytes(60))
    (folder / "parts" / "part_locs.txt").unlink()  # for these, sizes of photos are read
    (folder / "bounding_boxes.txt").unlink()
    return f"cub:{folder}"


@pytest.fixture(scope="module")
def whole(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this process makes, alone and undisturbed."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitted_locator, "FIND", FIND)
        fit_all(data, out)
    return out


@pytest.mark.slow
def test_two_processes_make_the_bottleneck_of_one(data: str, whole: Path, tmp_path: Path) -> None:
    launch(SCRIPT, data, tmp_path, 2)  # pyright: ignore[reportArgumentType]
    photos, model = open_classes(data, "test"), pupil()
    for name in FITS:
        one, two = Bottleneck.from_pretrained(whole / name), Bottleneck.from_pretrained(tmp_path / name)
        about = {key: (one.training_record[key], two.training_record[key]) for key in one.training_record}
        assert all(first == second for first, second in about.values()), about
        weights = [load_file(folder / name / FILES[0]) for folder in (whole, tmp_path)]
        assert weights[0].keys() == weights[1].keys()
        for key, value in weights[0].items():
            assert torch.allclose(weights[1][key], value, atol=0.01 * float(value.abs().max())), (name, key)
        logits = [
            torch.cat([made.output(made.observe(model, photos[place])).logits for place in range(6)])
            for made in (one, two)
        ]
        assert torch.allclose(logits[0], logits[1], atol=0.01 * float(logits[0].abs().max()))
        assert [entry["name"] for entry in json.loads((tmp_path / name / "failures.json").read_text())] == [
            "002.Bay_Tern/0003.png"
        ]
        assert {file.name for file in (tmp_path / name).iterdir()} == {*FILES, "training"}
        logs = list((tmp_path / name / "training").glob("*/logs/*"))
        assert len(logs) == len(list((tmp_path / name / "training").glob("*/logs")))  # only the main process writes
    tuned = Bottleneck.from_pretrained(tmp_path / "tuned").backbone.changed_weights
    before = model.module.state_dict()
    assert all(not torch.allclose(value, before[key], atol=1e-4) for key, value in tuned.items())


@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_if_it_had_not_been(data: str, whole: Path, tmp_path: Path) -> None:
    call = [sys.executable, str(SCRIPT), data, str(tmp_path), "--resume"]
    for where in ("parts/training/parts-1", "tuned/training/last-stage"):
        process = subprocess.Popen([*call, "--slow"])
        file = tmp_path / where / "checkpoint.safetensors"
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline and not file.exists():
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL
        assert file.exists()
        assert not (tmp_path / where.partition("/")[0] / "config.json").exists()
    subprocess.run(call, check=True, timeout=300)
    for name in FITS:
        for file in FILES:
            assert (tmp_path / name / file).read_bytes() == (whole / name / file).read_bytes(), (name, file)
    assert not list(tmp_path.glob("**/.*.part"))
