"""Trainings by steps in processes of their own: two follow one, and one that was killed goes on to the same bytes."""

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
from accelerate import Accelerator
from part_training_process import STEPS, TASKS, WEIGHTS, make_data, task_called, train
from safetensors.torch import load_file
from test_fit_ce_fam_processes import launch

import conceptlens as cl
from conceptlens.training.checkpoint import FILE

pytestmark = pytest.mark.process

SCRIPT = Path(__file__).with_name("part_training_process.py")


@pytest.fixture(scope="module")
def alone() -> Accelerator:
    return Accelerator(cpu=True, device_placement=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "cells.safetensors")


@pytest.fixture(scope="module")
def whole(data: Path, alone: Accelerator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every task trained by one process in one go."""
    out = tmp_path_factory.mktemp("whole")
    for name in TASKS:
        train(name, data, out / name, alone)
    return out


def losses_of(folder: Path, process: int = 0) -> dict[int, float]:
    losses = json.loads((folder / f"losses-{process}.json").read_text())
    return {int(step): loss for step, loss in losses.items()}


@pytest.mark.slow
def test_two_processes_train_as_one(data: Path, whole: Path, tmp_path: Path) -> None:
    launch(SCRIPT, data, tmp_path, 2)
    for name in TASKS:
        one, two, other = losses_of(whole / name), losses_of(tmp_path / name), losses_of(tmp_path / name, 1)
        assert list(one) == list(two) == list(range(1, STEPS.steps + 1))
        assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-3)
        assert other == pytest.approx(two, rel=1e-5)  # each has the loss of the whole batch
        begun = task_called(name, data).network.state_dict()
        weights = [load_file(folder / name / WEIGHTS) for folder in (whole, tmp_path)]
        for key, value in weights[0].items():
            assert torch.allclose(weights[1][key], value, atol=1e-3), (name, key)
            assert not torch.allclose(begun[key], value, atol=2e-2), (name, key)
        assert len(list((tmp_path / name / "logs").iterdir())) == 1  # only the main process writes


@pytest.mark.slow
def test_killed_in_the_middle_it_ends_as_if_it_had_not_been(
    data: Path, whole: Path, alone: Accelerator, tmp_path: Path
) -> None:
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(data), str(tmp_path), "--slow"])
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not (tmp_path / TASKS[-1] / FILE).exists():
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / TASKS[-1] / WEIGHTS).exists()
    for name in TASKS:  # the first ones had ended, and are not redone
        (tmp_path / name / WEIGHTS).unlink(missing_ok=True)
        train(name, data, tmp_path / name, alone)
        assert (tmp_path / name / WEIGHTS).read_bytes() == (whole / name / WEIGHTS).read_bytes()
        after = losses_of(tmp_path / name)
        assert 0 < len(after) < STEPS.steps if name == TASKS[-1] else not after  # it went on, it did not begin anew
        assert after == {step: loss for step, loss in losses_of(whole / name).items() if step in after}
        assert not list((tmp_path / name).glob("*.part"))


def test_a_checkpoint_of_another_run_is_refused(whole: Path, data: Path, alone: Accelerator, tmp_path: Path) -> None:
    train("guided", data, tmp_path, alone, pause=0.01)
    assert (tmp_path / FILE).is_file()
    with pytest.raises(cl.InputError, match="belongs to another run"):
        train("parts", data, tmp_path, alone)
