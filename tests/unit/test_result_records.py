"""Every committed result says how it was made: command, date, seconds, versions, machine; those of suites, protocols.

Older results lack some of that. It is not known any more, so it is not made up: they are listed, and leave the list
once they are measured again. No new result may join it.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = {file.stem: file for file in sorted((ROOT / "docs" / "results").glob("*.json"))}
SUITES = [name for name in RESULTS if name.startswith("benchmark_")]
OTHERS = [name for name in RESULTS if name not in SUITES]
OF_SUITES = ("command", "versions", "environment", "protocols")
NOT_TOLD: dict[str, set[str]] = {
    "answers": {"date", "seconds", "versions", "device", "threads"},
    "bottleneck_use": {"date", "seconds", "device", "threads"},
    "cam": {"date", "threads"},
    "cards": {"date", "seconds", "threads"},
    "ce_fam": {"date"},
    "detections": {"command", "date", "seconds", "versions", "device", "threads"},
    "doubt": {"date", "seconds", "versions", "device", "threads"},
    "drawn_architectures": {"command", "date", "seconds", "versions", "device", "threads"},
    "embed": {"date"},
    "evidence": {"date", "seconds", "versions", "threads"},
    "explain": {"date", "seconds", "versions", "threads"},
    "finer_cam": {"seconds"},  # rows of the earlier layer do not say
    "fit": {"date", "seconds", "versions", "device", "threads"},
    "loc_cbm": {"date", "seconds", "device", "threads"},
    "localization": {"command", "date", "seconds", "versions", "device", "threads"},
    "loce": {"date"},
    "loce_general": {"date", "versions", "threads"},
    "loce_quality": {"command", "date", "seconds", "versions", "device", "threads"},
    "metric": {"date"},
    "overlap": {"date", "seconds", "versions", "threads"},
    "part_effects": {"date", "seconds", "versions", "threads"},
    "parts": {"date", "seconds", "versions", "device", "threads"},
    "sparse_head": {"date"},
    "transformer_regions": {"date", "seconds", "versions", "threads"},
}

# What committed figures must reach: ratios against a named peer of the same run, of equal values.
REACHED = {"metric": {"road_speedup": 5.0, "deletion_speedup_torchcam": 2.0, "deletion_speedup_quantus": 2.0}}


def told(document: dict[str, Any]) -> set[str]:
    """What a result says, at its top or in its setting."""
    details = document.get("details", {})
    places = [document, document.get("setting", {}), details, details.get("setting", {})]
    return {name for place in places if isinstance(place, dict) for name, value in place.items() if value is not None}


def benchmark(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"))


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_says_how_it_was_made(name: str) -> None:
    wanted = OF_SUITES if name in SUITES else benchmark("run_record")["RECORD"]
    missing = set(wanted) - told(json.loads(RESULTS[name].read_text("utf-8")))
    assert missing == NOT_TOLD.get(name, set()), "the list of what old results lack may only shrink"


@pytest.mark.parametrize("name", REACHED)
def test_committed_figures_reach_what_is_promised(name: str) -> None:
    figures = json.loads(RESULTS[name].read_text("utf-8"))["figures"]
    assert {figure: figures[figure] for figure, least in REACHED[name].items() if figures[figure] < least} == {}


def test_the_list_is_of_results_that_there_are() -> None:
    assert set(NOT_TOLD) <= set(RESULTS)


def test_the_record_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    made = benchmark("run_record")
    words = ["/home/me/benchmarks/parts.py", "--json", "--data", "cub:/data/sets/CUB_200_2011", "~/rows.jsonl", "0.5"]
    monkeypatch.setattr(sys, "argv", words)
    record = made["run_record"](("numpy", "no-such-package"), threads=2)
    assert tuple(record) == made["RECORD"]
    assert record["command"] == "python benchmarks/parts.py --json --data cub:CUB_200_2011 rows.jsonl 0.5"
    assert record["versions"]["numpy"]
    assert record["versions"]["no-such-package"] is None
    assert record["threads"] == 2
    assert "cores" in record["device"]
    assert made["run_record"](command="as told")["command"] == "as told"


def scripts() -> list[Path]:
    """The scripts that write a result."""
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    return [one for one in files if "json.dumps" in one.read_text("utf-8") and "__main__" in one.read_text("utf-8")]


@pytest.mark.parametrize("script", scripts(), ids=lambda one: one.stem)
def test_every_script_writes_the_record(script: Path) -> None:
    text = script.read_text("utf-8")
    of_another = {"bottleneck_use": "from loc_cbm import", "finer_cam": "finer_cam_summary"}
    assert of_another.get(script.stem, "run_record(") in text


def test_protocols_of_a_suite_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = benchmark("suite_tables")
    monkeypatch.setitem(made["keep"].__globals__, "DOCS", tmp_path)
    protocols = {"ab12": {"model": "head:/home/me/head", "data": "birds", "metric": "deletion"}}
    run = {"model": "head:/home/me/head", "data": "birds", "command": "", "protocols": protocols}
    (tmp_path / "benchmark.json").write_text(json.dumps(run), "utf-8")
    (tmp_path / "results").mkdir()
    made["keep"]("birds", tmp_path, "conceptlens benchmark faithfulness --model HEAD")
    text = (tmp_path / "results" / "benchmark_birds.json").read_text("utf-8")
    assert json.loads(text)["protocols"] == {"ab12": {"model": "head:HEAD", "data": "birds", "metric": "deletion"}}
    assert "/home/me" not in text
