"""Planted shortcuts: one in drawn scenes with real weights, and what the committed result says of all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conceptlens.data.drawn_scene import random_scene

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_mark_on_all_scenes_of_one_class_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from planted_marks import MARKS  # pyright: ignore[reportMissingImports]
    from summary import planted  # pyright: ignore[reportMissingImports]

    photos = {name: [random_scene(100 * kind + seed).image for seed in range(32)] for kind, name in enumerate("abc")}
    found = planted(photos, MARKS["bar code"], "b")
    assert found["relied_on"], found
    assert found["answered_without"] < 0.5 <= found["answered_with"]
    assert found["first"], found


def test_the_committed_plants_hold_what_the_page_claims() -> None:
    result = json.loads((ROOT / "docs" / "results" / "summary.json").read_text(encoding="utf-8"))
    figures = result["figures"]
    for name in ("real", "drawn"):
        plants = result["details"][name]["plants"]
        relied_on = [one for one in plants if one["relied_on"]]
        assert figures[f"{name}_tried"] == len(plants)
        assert figures[f"{name}_relied_on"] == len(relied_on)
        assert figures[f"{name}_first"] == sum(one["rank"] == 1 for one in relied_on)
        assert all(one["answered_without"] < 0.5 <= one["answered_with"] for one in relied_on)
    assert figures["real_first"] >= 9
    assert figures["real_relied_on"] == 10
    page = " ".join((ROOT / "docs" / "how-to" / "audit.md").read_text(encoding="utf-8").split())
    assert f"in {figures['real_first']} of the {figures['real_relied_on']} cases" in page
    assert f"it was {figures['drawn_first']} of {figures['drawn_relied_on']}:" in page
