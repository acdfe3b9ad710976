"""A small training by steps that a test can start as a process of its own: to kill it, or to run it beside another."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from conceptlens.bottleneck.fit.concept_layer import ConceptMapTask, ConceptVectors
from conceptlens.bottleneck.fit.hypercolumns import Hypercolumns
from conceptlens.bottleneck.fit.part_discovery import (
    GuidedAttentionTask,
    PartAttentions,
    PartDiscovery,
    PartDiscoveryTask,
)
from conceptlens.bottleneck.fit.recipe import Recipe
from conceptlens.training.loop import TrainingRun, TrainingTask, train_network
from conceptlens.training.run_folder import start_processes
from conceptlens.training.schedule import StepSchedule

STEPS = StepSchedule(60, 24, 0.02, 0.1)
TASKS = ("guided", "parts", "maps")
WEIGHTS = "weights.safetensors"


def make_data(file: Path) -> Path:
    """Write seeded cells and what is said of them."""
    random = torch.Generator().manual_seed(0)
    tensors = {
        "columns": torch.randn(50, 6, 12, generator=random).half(),
        "readings": torch.randn(50, 12, 9, generator=random),
        "told": torch.rand(50, 3, 2, generator=random),
        "wanted": torch.rand(50, 3, 12, generator=random).mul(8).softmax(2),
        "cells": torch.randn(50, 5, 4, 3, generator=random).relu(),
        "targets": torch.rand(50, 4, generator=random),
    }
    save_file(tensors, file)
    return file


def task_called(name: str, data: Path) -> TrainingTask:
    """Return a task on the data, with the network where every training of it begins."""
    stored = load_file(data)
    torch.manual_seed(0)
    if name == "parts":
        seen = Hypercolumns(stored["columns"], stored["readings"], {}, torch.arange(50), (4, 3))
        network = PartDiscovery(3, 6, 2)
        return PartDiscoveryTask(network, seen, stored["told"], torch.ones(3, 2).bool(), ((0, 2),), Recipe())
    if name == "guided":
        return GuidedAttentionTask(PartAttentions(3, 6), stored["columns"], stored["wanted"])
    how = Recipe(locator="peaks", loss="mse", first=4.0)  # standardised over the batch: halves of it are not enough
    return ConceptMapTask(ConceptVectors(4, 5), lambda rows: stored["cells"][rows], stored["targets"], how)


class Recorded:
    """A task that keeps its losses by their steps, and pauses after each, so that there is a middle to be killed in."""

    def __init__(self, task: TrainingTask, pause: float) -> None:
        self.task, self.network, self.rows, self.pause = task, task.network, task.rows, pause
        self.losses: dict[int, float] = {}

    def loss(self, network: nn.Module, own: Tensor, batch: Tensor, gather: Any, done: float) -> Tensor:
        time.sleep(self.pause)
        loss = self.task.loss(network, own, batch, gather, done)
        self.losses[round(done * STEPS.steps) + 1] = float(loss.detach())
        return loss


def train(name: str, data: Path, folder: Path, accelerator: Accelerator, pause: float = 0) -> None:
    """Train one task, or go on with it; leave the weights, and each process its losses by their steps."""
    task = Recorded(task_called(name, data), pause)
    run = TrainingRun(accelerator, folder, {"task": name}, seed=5, checkpoint_seconds=0.1)
    train_network(task, STEPS, run)
    if accelerator.is_main_process:
        save_file({key: value.detach() for key, value in task.network.state_dict().items()}, folder / WEIGHTS)
    (folder / f"losses-{accelerator.process_index}.json").write_text(json.dumps(task.losses))


def main() -> None:
    """Train every task, each in its folder: DATA OUT [--slow]; what they end with is left there."""
    torch.set_num_threads(1)
    data, out, *options = sys.argv[1:]
    accelerator, _ = start_processes("cpu")
    for name in TASKS:
        train(name, Path(data), Path(out) / name, accelerator, 0.03 if "--slow" in options else 0)


if __name__ == "__main__":
    main()
