"""A small training by steps that a test can start as a process of its own: to kill it, or to run it beside another."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from conceptlens.fit.concept_layer import Alignment, Layer, MapTask
from conceptlens.fit.part_discovery import Attentions, Discovery, DiscoveryTask, GuidedTask, Hypercolumns
from conceptlens.fit.place import processes
from conceptlens.fit.steps import Run, Steps, Task, train_steps

STEPS = Steps(120, 24, 0.02, 0.1)
TASKS = ("parts", "guided", "maps")


def make_data(file: Path) -> Path:
    """Write seeded cells and what is said of them."""
    random = torch.Generator().manual_seed(0)
    tensors = {
        "columns": torch.randn(50, 6, 12, generator=random).half(),
        "readings": torch.randn(50, 12, 9, generator=random),
        "told": torch.rand(50, 3, 2, generator=random),
        "wanted": torch.rand(50, 3, 12, generator=random).pow(4).softmax(2),
        "cells": torch.randn(50, 5, 4, 3, generator=random).relu(),
        "targets": torch.rand(50, 4, generator=random),
    }
    save_file(tensors, file)
    return file


def task_called(name: str, data: Path) -> Task:
    """Return a task on the data, with the network where every training of it begins."""
    stored = load_file(data)
    torch.manual_seed(0)
    if name == "parts":
        seen = Hypercolumns(stored["columns"], stored["readings"], {}, torch.arange(50), (4, 3))
        network = Discovery(3, 6, 2, hidden=8)
        return DiscoveryTask(network, seen, stored["told"], torch.ones(3, 2).bool(), ((0, 2),))
    if name == "guided":
        return GuidedTask(Attentions(3, 6), stored["columns"], stored["wanted"])
    how = Alignment("mse", masked=True, first=4.0)  # standardised over the batch: halves of it are not enough
    return MapTask(Layer(4, 5), lambda rows: stored["cells"][rows], stored["targets"], how)


def main() -> None:
    """Train: DATA OUT TASK [--slow]; the weights and the losses of this process are left in OUT."""
    torch.set_num_threads(1)
    data, out, name, *options = sys.argv[1:]
    folder = Path(out)
    accelerator, _ = processes("cpu")
    losses: dict[int, float] = {}

    def keep(step: int, loss: float) -> None:
        losses[step] = loss
        if "--slow" in options:  # so that there is a middle to be killed in
            time.sleep(0.03)

    task: Any = task_called(name, Path(data))
    train_steps(task, STEPS, Run(accelerator, folder, {"task": name}, seed=5, every=0.1), keep)
    if accelerator.is_main_process:
        save_file({key: value.detach() for key, value in task.network.state_dict().items()}, folder / "weights")
    (folder / f"losses-{accelerator.process_index}.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main()
