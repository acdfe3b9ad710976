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
from loc_cbm_process import STEPS, TASKS, make_data, task_called
from safetensors.torch import load_file
from test_fit_processes import launch

import conceptlens as cl
from conceptlens.fit.steps import Run, train_steps

SCRIPT = Path(__file__).with_name("loc_cbm_process.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "cells")


def losses_of(folder: Path, process: int = 0) -> list[float]:
    return list(json.loads((folder / f"losses-{process}.json").read_text()).values())


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_train_as_one(data: Path, tmp_path: Path, task: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    launch(SCRIPT, data, two, 2, task)
    made = task_called(task, data)
    whole: list[float] = []
    run = Run(Accelerator(cpu=True, device_placement=False), one, {"task": task}, seed=5)
    train_steps(made, STEPS, run, lambda step, loss: whole.append(loss))
    assert losses_of(two) == pytest.approx(whole, rel=1e-3)
    assert losses_of(two, 1) == pytest.approx(losses_of(two), rel=1e-5)  # each has the loss of the whole batch
    assert max(whole) - min(whole) > 0.01 * whole[0]
    before = task_called(task, data).network.state_dict()
    weights = load_file(two / "weights")
    for name, value in made.network.state_dict().items():
        assert torch.allclose(weights[name], value, atol=1e-3), name
        assert not torch.allclose(before[name], value, atol=1e-2), name
    assert len(list((two / "logs").iterdir())) == 1  # only the main process writes


@pytest.mark.parametrize("task", ["parts", "maps"])
def test_killed_in_the_middle_it_ends_as_if_it_had_not_been(data: Path, tmp_path: Path, task: str) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    call = [sys.executable, str(SCRIPT), str(data)]
    subprocess.run([*call, str(whole), task], check=True, timeout=120)
    process = subprocess.Popen([*call, str(broken), task, "--slow"])
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and not (broken / "checkpoint.safetensors").exists():
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (broken / "weights").exists()

    subprocess.run([*call, str(broken), task], check=True, timeout=120)
    assert (broken / "weights").read_bytes() == (whole / "weights").read_bytes()
    after = losses_of(broken)
    assert 0 < len(after) < STEPS.count  # it went on, it did not begin anew
    assert after == losses_of(whole)[-len(after) :]
    assert not list(broken.glob("*.part"))


def test_a_checkpoint_of_another_run_is_refused(data: Path, tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True, device_placement=False)
    train_steps(task_called("guided", data), STEPS, Run(accelerator, tmp_path, {"task": "guided"}, every=0))
    with pytest.raises(cl.InputError, match="belongs to another run"):
        train_steps(task_called("guided", data), STEPS, Run(accelerator, tmp_path, {"task": "other"}, every=0))
