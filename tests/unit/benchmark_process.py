"""A benchmark that a test can start as a process, to kill it: `python benchmark_process.py FOLDER PHOTOS`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conceptlens.benchmark.benchmark_run import run_benchmark
from conceptlens.benchmark.protocol import Protocol
from conceptlens.benchmark.result_parts import MeasuredValue, PhotoRows
from conceptlens.io.errors import InputError

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


def main() -> None:
    for progress in run_benchmark(DrawnNumbers(int(sys.argv[2]), 0.02), Path(sys.argv[1]), resume=True):
        print(progress.photos, flush=True)


if __name__ == "__main__":
    main()
