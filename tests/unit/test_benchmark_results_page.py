"""The page of results shows what is committed."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "docs" / "results").glob("benchmark_*.json"))


def test_the_page_shows_what_was_measured() -> None:
    made = runpy.run_path(str(ROOT / "benchmarks" / "suite_tables.py"))
    assert made["page"]() == made["PAGE"].read_text("utf-8"), "run python benchmarks/suite_tables.py"
    shown = re.findall(r"<!-- result: (\w+) -->", made["PAGE"].read_text("utf-8"))
    assert shown == list(dict.fromkeys(shown))
    assert {f"benchmark_{name}" for name in shown} == {file.stem for file in RESULTS}


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_a_result_can_be_measured_again(file: Path) -> None:
    found = json.loads(file.read_text("utf-8"))
    assert found["command"].startswith(f"conceptlens benchmark {found['suite']} ")
    assert found["environment"]["platform"]
    assert found["versions"]["torch"]
    made = {word for word in re.findall(r"[A-Za-z-]+", found["command"]) if word in ("HEAD", "STORE")}
    assert made <= set(found.get("fits", {}))
    assert not found["failures"]
    assert not re.search(r"/(tmp|home|work|root)/", file.read_text("utf-8"))
