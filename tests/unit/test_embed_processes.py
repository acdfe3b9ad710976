"""Embedding in several processes: the local engine's rows, whatever becomes of the workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_sets import Watched
from embedded_stores import filled, told

import conceptlens as cl
from conceptlens.runs.local_engine import local_engine
from conceptlens.runs.process_engine import process_engine

pytestmark = pytest.mark.process


@pytest.mark.slow
def test_a_killed_worker_leaves_the_store_identical(tmp_path: Path) -> None:
    data = cl.open_set("drawn:12")
    whole = filled(data, tmp_path / "local", local_engine)
    (tmp_path / "seen").mkdir()
    watched = Watched(data, tmp_path / "seen", deadly=7)
    assert told(filled(watched, tmp_path / "processes", process_engine(2))) == told(whole)
    assert len(watched.killed()) == 1
    assert len(watched.processes()) >= 2
