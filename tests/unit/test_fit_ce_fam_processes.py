"""Processes of their own: two train as one does, and one that was killed goes on as if it had not been.

Started as a program, this file is such a process: PHOTOS OUT [--similar] [--slow-teacher] [--resume].
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fit_process import QUICK, make_photos, pupil, teacher_of
from safetensors.torch import load_file

import conceptlens as cl
from conceptlens.concept_regions.fit import pair_shards
from conceptlens.concept_regions.fit.fit_ce_fam import fit_ce_fam

pytestmark = pytest.mark.process

SCRIPT = Path(__file__).with_name("fit_process.py")


def main() -> None:
    """Run one fit in shards of a few photos, with the loss on concepts or without it."""
    photos, out, *options = sys.argv[1:]
    torch.set_num_threads(1)
    pair_shards.PHOTOS_PER_SHARD = 8
    if "--slow-teacher" in options:  # so that there is a middle to be killed in
        quickly = pair_shards.image_vectors

        def slowly(vlm: cl.Backbone, images: torch.Tensor) -> torch.Tensor:
            time.sleep(0.2)
            return quickly(vlm, images)

        pair_shards.image_vectors = slowly
    asked: dict[str, Any] = {"similarity_weight": 0.0}
    if "--similar" in options:
        asked = {"similarity_weight": 20.0, "concepts": ["cat", "dog", "red:colour"]}
    fit_ce_fam(pupil(), teacher_of(), photos, out, epochs=8, resume="--resume" in options, **asked, **QUICK)


def launch(script: Path, photos: Path, out: Path, processes: int, *options: str) -> None:
    """Start the processes as `accelerate launch --cpu --num_processes` does: with ranks in their environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    about = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    about |= {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": str(processes)}
    started = [
        subprocess.Popen(
            [sys.executable, str(script), str(photos), str(out), *options],
            env={**os.environ, **about, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0] * processes, said


def check_alike(first: Path, second: Path, *losses: str) -> None:
    """Hold losses and weights of two runs against one another, to what the order of a sum may change."""
    one, two = (json.loads((folder / "history.json").read_text()) for folder in (first, second))
    assert len(one) == len(two) > 5
    for a, b in zip(one, two, strict=True):
        assert (a["epoch"], a["step"]) == (b["epoch"], b["step"])
        for name in losses:
            assert a[name] == pytest.approx(b[name], rel=1e-3), a
    weights = [load_file(folder / "branch.safetensors") for folder in (first, second)]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=2e-3), name


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["modern", "code"])
def test_two_processes_follow_the_curve_of_one(tmp_path: Path, schedule: str) -> None:
    photos = make_photos(tmp_path / "photos", 71)  # two shards, and batches that do not divide by two
    subprocess.run([sys.executable, str(SCRIPT), str(photos), str(tmp_path / "one"), schedule], check=True, timeout=300)
    launch(SCRIPT, photos, tmp_path / "two", 2, schedule)
    check_alike(tmp_path / "one", tmp_path / "two", "train", "validation")
    assert len(list((tmp_path / "two" / "cache").glob("*/*.safetensors"))) == 2
    assert len(list((tmp_path / "two" / "logs").iterdir())) == 1  # only the main process writes
    launch(SCRIPT, photos, tmp_path / "two", 2, schedule, "--resume")  # finished: both give what is there


@pytest.mark.slow
def test_accelerate_launch_runs_it(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 20)
    call = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
    call += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    done = subprocess.run(
        [*call, str(SCRIPT), str(photos), str(tmp_path / "run"), "modern"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "branch.safetensors").is_file()


@pytest.mark.slow
def test_two_processes_read_concepts_as_one_does(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 71)
    launch(Path(__file__), photos, tmp_path / "one", 1, "--similar")
    launch(Path(__file__), photos, tmp_path / "two", 2, "--similar")
    check_alike(tmp_path / "one", tmp_path / "two", "train", "validation", "validation_similarity")
    first = json.loads((tmp_path / "two" / "history.json").read_text())[0]
    assert 20 * first["validation_similarity"] > 0.2 * first["validation"]  # the loss on concepts counts
    assert json.loads((tmp_path / "two" / "run.json").read_text())["concepts"].startswith("3 concepts")


@pytest.mark.slow
def test_killed_while_the_teacher_speaks_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 40)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    call = [sys.executable, __file__, str(photos)]
    subprocess.run([*call, str(whole)], check=True, timeout=300)
    process = subprocess.Popen([*call, str(broken), "--slow-teacher"])
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and len(shards(broken)) < 2:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    made = {file: file.stat().st_mtime_ns for file in shards(broken)}
    assert process.returncode == -signal.SIGKILL
    assert 2 <= len(made) < 5 == len(shards(whole))
    assert not (broken / "logs").exists()  # training had not begun

    subprocess.run([*call, str(broken), "--resume"], check=True, timeout=300)
    for name in ("branch.safetensors", "history.json"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    assert {file.name for file in shards(broken)} == {file.name for file in shards(whole)}
    assert {file: file.stat().st_mtime_ns for file in made} == made  # what was whole is not made again
    assert not list(broken.glob("**/*.part"))


def shards(out: Path) -> list[Path]:
    return sorted(out.glob("cache/*/[!.]*.safetensors"))


if __name__ == "__main__":
    main()
