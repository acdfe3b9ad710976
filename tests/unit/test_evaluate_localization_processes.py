"""`conceptlens evaluate localization` stopped and killed: resumed, it gives the rows of a run left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from embed_process import small_model
from pyarrow import parquet
from typer.testing import CliRunner

import conceptlens as cl
from conceptlens.cli import app
from conceptlens.data.drawn_scene import DrawnSet
from conceptlens.localization.evaluate_localization import evaluate_localization
from conceptlens.localization.localization_folder import evaluate_into, evaluated, run_settings
from conceptlens.localization.localization_task import LocalizationTask
from conceptlens.localization.methods import MethodContext, build_methods
from conceptlens.localization.result_rows import write_rows
from conceptlens.runs.local_engine import local_engine
from conceptlens.runs.process_engine import process_engine
from conceptlens.runs.run_task import Engine

pytestmark = pytest.mark.process

WORDS = ["evaluate", "localization", "--data", "drawn:24", "--methods", "grad_cam,random", "--resolution", "32"]


def stopped(out: Path, photos: int, number: signal.Signals, *more: str) -> tuple[int, str]:
    """Send a signal to the command once so many photos are written; return its exit code and what it said."""
    call = [sys.executable, "-m", "conceptlens", *WORDS, "--out-dir", str(out), *more]
    process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    end = time.monotonic() + 120
    while len(list((out / "parts").glob("*.parquet"))) < photos and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def test_what_is_done_is_kept_and_the_resumed_rows_are_the_same(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said = stopped(out, 3, signal.SIGINT)
    done = len(list((out / "parts").glob("*.parquet")))
    assert code == 130
    assert "Traceback" not in said
    (line,) = said.splitlines()
    assert line in [
        f"interrupted after {count} of 24 photos; they are kept in {out}; continue with --resume"
        for count in (done - 1, done)  # a photo may be written as the signal comes
    ]
    code, _ = stopped(out, done + 1, signal.SIGKILL, "--resume")
    assert code == -9
    assert done + 1 <= len(list((out / "parts").glob("*.parquet"))) < 24
    ended = CliRunner().invoke(app, [*WORDS, "--out-dir", str(out), "--resume"])
    assert ended.exit_code == 0, ended.output
    data, model = DrawnSet(24), cl.load_model(crop_mode="squash")
    methods = build_methods(["grad_cam", "random"], MethodContext(model, data.concepts))
    alone = [row for rows in evaluate_localization(data, methods, resolution=32) for row in rows]
    write_rows(alone, tmp_path / "alone.parquet")
    assert parquet.read_table(out / "localization.parquet").equals(parquet.read_table(tmp_path / "alone.parquet"))
    assert len(alone) > 60


def test_another_process_gives_the_same_rows(tmp_path: Path) -> None:
    data, model = DrawnSet(5), small_model()
    context = MethodContext(model, data.concepts, seed=2)
    methods = build_methods(["grad_cam", "layer_cam", "edges", "random"], context)
    task = LocalizationTask(data, methods, 0.01, 24, 2, 5)

    def rows(folder: Path, engine: Engine) -> object:
        *_, last = evaluate_into(folder, task, run_settings(task, context, "", {}), engine=engine)
        assert (last.photos, last.failures) == (5, 0)
        return evaluated(folder)

    assert rows(tmp_path / "other", process_engine(1)) == rows(tmp_path / "own", local_engine)
