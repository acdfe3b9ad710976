"""Small fits of bottlenecks that a test can start as a process of its own: to kill it, or to run it beside another."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fit_process import pupil

from conceptlens.bottleneck.fit import fitted_locator
from conceptlens.bottleneck.fit.fit_loc_cbm import fit_loc_cbm
from conceptlens.training import loop

FIND = replace(fitted_locator.FIND, steps=40, batch_size=24)
QUICK: dict[str, Any] = {"penalties": (0.1,), "restarts": 2, "checkpoint_seconds": 0.1}
# What is fitted, by name: parts from words, the last stage, and maps that look for peaks.
FITS: dict[str, dict[str, Any]] = {
    "parts": {},
    "tuned": {"locator": "whole", "finetune": 16},
    "peaks": {"locator": "peaks", "loss": "mse", "steps": 40, "batch": 16},
}


def fit_all(data: str, out: str | Path, resume: bool = False) -> None:
    """Fit each of `FITS`, in a folder of its own."""
    for name, choices in FITS.items():
        fit_loc_cbm(pupil(), data, f"{out}/{name}", seed=2, resume=resume, **{**QUICK, **choices})


def main() -> None:
    """Fit as a process: DATA OUT [--slow] [--resume]."""
    torch.set_num_threads(1)
    data, out, *options = sys.argv[1:]
    fitted_locator.FIND = FIND
    if "--slow" in options:  # so that there is a middle to be killed in
        shares: Callable[..., Any] = loop._shares

        def slowly(*arguments: Any) -> Any:
            time.sleep(0.03)
            return shares(*arguments)

        loop._shares = slowly
    fit_all(data, out, "--resume" in options)


if __name__ == "__main__":
    main()
