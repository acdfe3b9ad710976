"""Two processes train as one does: the same losses and weights for the same global batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fit_process import make_photos
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("fit_process.py")


def launch(photos: Path, out: Path, schedule: str, processes: int, *options: str) -> None:
    """Start the processes as `accelerate launch --cpu --num_processes` does: with ranks in their environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    about = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    about |= {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": str(processes)}
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(photos), str(out), schedule, *options],
            env={**os.environ, **about, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0] * processes, said


@pytest.mark.parametrize("schedule", ["modern", "code"])
def test_two_processes_follow_the_curve_of_one(tmp_path: Path, schedule: str) -> None:
    photos = make_photos(tmp_path / "photos", 71)  # two shards, and batches that do not divide by two
    subprocess.run([sys.executable, str(SCRIPT), str(photos), str(tmp_path / "one"), schedule], check=True, timeout=300)
    launch(photos, tmp_path / "two", schedule, 2)
    one, two = (json.loads((tmp_path / name / "history.json").read_text()) for name in ("one", "two"))
    assert len(one) == len(two) > 5
    for a, b in zip(one, two, strict=True):
        assert (a["epoch"], a["step"]) == (b["epoch"], b["step"])
        for name in ("train", "validation"):
            assert a[name] == pytest.approx(b[name], rel=1e-3), a
    weights = [load_file(tmp_path / name / "branch.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=2e-3), name
    assert len(list((tmp_path / "two" / "cache").glob("*/*.safetensors"))) == 2
    assert len(list((tmp_path / "two" / "logs").iterdir())) == 1  # only the main process writes
    launch(photos, tmp_path / "two", schedule, 2, "--resume")  # finished: both give what is there


def test_accelerate_launch_runs_it(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 20)
    call = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
    call += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    done = subprocess.run(
        [*call, str(SCRIPT), str(photos), str(tmp_path / "run"), "modern"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "branch.safetensors").is_file()
