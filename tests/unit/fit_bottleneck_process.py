"""Small fits of bottlenecks that a test can start as a process of its own: to kill it, or to run it beside another."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from fit_process import pupil

from conceptlens.fit import locate_parts, steps
from conceptlens.fit.loc_cbm import fit_loc_cbm

QUICK: dict[str, Any] = {"penalties": (0.1,), "restarts": 2, "checkpoint_seconds": 0.1}
# What is fitted, by name: parts from words, the last stage, and maps that look for peaks.
FITS: dict[str, dict[str, Any]] = {
    "parts": {},
    "tuned": {"locator": "whole", "finetune": 16},
    "peaks": {"locator": "peaks", "loss": "mse", "steps": 40, "batch": 16},
}


def main() -> None:
    """Fit each of `FITS`, in a folder of its own: DATA OUT [--slow] [--resume]."""
    torch.set_num_threads(1)
    data, out, *options = sys.argv[1:]
    for name in ("FIND", "GUIDE"):
        setattr(locate_parts, name, replace(getattr(locate_parts, name), count=40, batch=24))
    if "--slow" in options:  # so that there is a middle to be killed in
        shares: Callable[..., Any] = steps._shares

        def slowly(*arguments: Any) -> Any:
            time.sleep(0.03)
            return shares(*arguments)

        steps._shares = slowly
    for name, choices in FITS.items():
        resume = "--resume" in options
        fit_loc_cbm(pupil(), data, f"{out}/{name}", seed=2, resume=resume, **{**QUICK, **choices})


if __name__ == "__main__":
    main()
