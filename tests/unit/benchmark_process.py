"""A benchmark that a test can start as a process, to kill it: `python benchmark_process.py FOLDER PHOTOS [WORKERS]`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conceptlens.benchmark.benchmark_run import BenchmarkTask, run_benchmark
from conceptlens.benchmark.protocol import Protocol
from conceptlens.benchmark.result_parts import MeasuredValue, PhotoRows
from conceptlens.io.errors import InputError
from conceptlens.runs.local_engine import local_engine
from conceptlens.runs.process_engine import process_engine

METHODS = {"grad_cam": 0.0, "layer_cam": 0.1, "random": -0.3}
METRICS = (("deletion", "mean"), ("insertion", "blur"))
UNREADABLE = 3


class DrawnNumbers:
    """A task whose numbers are drawn by photo, method and metric; the photo at `UNREADABLE` cannot be read."""

    def __init__(self, photos: int, seconds: float = 0.0, seed: int = 0) -> None:
        self.photo_names: Sequence[str] = [f"photo {index}" for index in range(photos)]
        self.seconds = seconds
        self.protocols = tuple(
            Protocol("drawn", "f", photos, "none", "w", "layer", "predicted", method, metric, fill, (8, 8), seed)
            for method in METHODS
            for metric, fill in METRICS
        )

    def rows(self, index: int) -> PhotoRows:
        time.sleep(self.seconds)
        if index == UNREADABLE:
            raise InputError("the file ends too early; give a whole one")
        values = []
        for one in self.protocols:
            drawn = np.random.default_rng([index, *f"{one.method} {one.metric}".encode()]).normal(0.5, 0.1)
            gain = METHODS[one.method] * (-1 if one.metric == "deletion" else 1)
            values.append(MeasuredValue(one.hash, one.method, one.metric, one.fill, "a class", drawn + gain, 0.9))
        return PhotoRows(index, self.photo_names[index], "a label", tuple(values))


class KillsOnce:
    """A task whose photo at `deadly` kills the worker that measures it (SIGKILL), the first time."""

    def __init__(self, task: BenchmarkTask, folder: Path, deadly: int) -> None:
        self.task, self.folder, self.deadly, self.home = task, folder, deadly, os.getpid()
        self.photo_names, self.protocols = task.photo_names, task.protocols

    def rows(self, index: int) -> PhotoRows:
        if os.getpid() != self.home:
            (self.folder / f"{os.getpid()}.process").touch()
            if index == self.deadly and not (self.folder / "killed").exists():
                (self.folder / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return self.task.rows(index)


def main() -> None:
    engine = process_engine(int(sys.argv[3])) if len(sys.argv) > 3 else local_engine
    task = DrawnNumbers(int(sys.argv[2]), 0.02)
    for progress in run_benchmark(task, Path(sys.argv[1]), resume=True, engine=engine):
        print(progress.photos, flush=True)


if __name__ == "__main__":
    main()
