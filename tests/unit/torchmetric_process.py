"""One of two processes that hold parts of a set of maps: `RANK FILE`; prints the mean over both parts."""

from __future__ import annotations

import sys

import torch
from torch import distributed

from conceptlens.metrics import MAP_MASK_METRICS, as_torchmetric

rank, file = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
generator = torch.Generator().manual_seed(0)
maps, masks = torch.rand(5, 1, 4, 4, generator=generator), torch.rand(5, 8, 8, generator=generator) > 0.5
own = slice(0, 1) if rank == 0 else slice(1, 5)
metric = as_torchmetric(MAP_MASK_METRICS["iou"])
metric.update(maps[own], masks[own])
together = float(metric.compute())
distributed.destroy_process_group()
whole = MAP_MASK_METRICS["iou"].compute(maps, masks).mean()
print(together, whole)
