"""A process that embeds drawn scenes on a cluster, a worker of which is killed: `STORE FOLDER ADDRESS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from cluster_sets import Watched
from embed_process import small_model, small_plan

import conceptlens as cl
from conceptlens.local_embeddings.runs.embed_run import embed_batches
from conceptlens.runs.ray_engine import ray_engine
from conceptlens.store import Store


def main() -> None:
    torch.set_num_threads(1)
    data = Watched(cl.open_set("drawn:20"), Path(sys.argv[2]), deadly=13)
    *_, last = embed_batches(
        data, small_model(), small_plan(), Store(sys.argv[1], create=True), engine=ray_engine(sys.argv[3], 2)
    )
    print(json.dumps({"photos": last.photos, "killed": len(data.killed()), "processes": len(data.processes())}))


if __name__ == "__main__":
    main()
