"""Every method has a card, and the cards are what the generator writes from what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import conceptlens as cl

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
METHODS = (*cl.RULES, "finer_cam", "ce_fam", "loc_cbm", "loce")


@pytest.fixture(scope="module")
def pages() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import card_pages

        yield card_pages


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return json.loads((DOCS / "results" / "cards.json").read_text(encoding="utf-8"))


def test_pages_are_what_the_generator_writes(pages: Any, measured: dict[str, Any]) -> None:
    written = {file.name: file.read_text(encoding="utf-8") for file in (DOCS / "cards").glob("*.md")}
    made = pages.pages(measured)
    assert sorted(written) == sorted(made)
    for name, text in made.items():
        assert written[name] == text, f"{name} is old: python benchmarks/cards.py --pages"


def test_every_method_has_a_card_with_a_picture_and_a_place_in_the_menu(pages: Any) -> None:
    from card_texts import card_texts

    texts = card_texts()
    assert set(texts) == set(METHODS)
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for text in texts.values():
        picture = DOCS / "images" / "cards" / text.picture
        assert 1000 < picture.stat().st_size < 15_000
        assert f": cards/{text.file}\n" in menu
        assert f"{text.title}: cards/{text.file}" in menu
        assert all((ROOT / "tests" / name).exists() for name in text.proof)


def test_a_rule_without_words_has_no_card(
    pages: Any, measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cl.RULES, "new", cl.Rule("new", lambda gradient, feature: gradient, "nowhere"))
    with pytest.raises(KeyError, match="new"):
        pages.pages(measured)


def test_what_is_called_the_same_was_measured_to_be(pages: Any, measured: dict[str, Any]) -> None:
    from card_peers import EQUAL, peers

    found, made = {row["peer"]: row["differences"] for row in measured["peers"]}, pages.pages(measured)
    assert list(found) == [peer.key for peer in peers()]
    for peer in peers():
        largest = max(value for value in found[peer.key].values() if value is not None)
        assert (largest > EQUAL) == bool(peer.departs), peer.key
        text = made[_file_of(peer.card)]
        assert (f"differs: it {peer.departs}" if peer.departs else "**the same**") in text
    compared = {peer.card for peer in peers()}
    assert {*METHODS} - compared == {"score_cam_fast", "random", "ce_fam", "loc_cbm", "loce"}


def _file_of(card: str) -> str:
    from card_texts import card_texts

    return card_texts()[card].file


def test_a_difference_without_a_reason_stops_the_generator(pages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so does a reason without a difference: a card cannot claim either."""
    import card_peers

    class Place:
        name, large, tokens = "a place", False, False

    monkeypatch.setattr(card_peers, "grounds", lambda: [Place()])

    def peer(size: float, departs: str) -> Any:
        flat, other = torch.ones(1, 2, 2), torch.ones(1, 2, 2)
        other[0, 0, 0] += size
        return card_peers.Peer("card", "tool", "method", lambda _: other, lambda _: flat, departs=departs)

    assert card_peers.compare([peer(1e-6, ""), peer(0.5, "does otherwise")])[1]["differences"]["a place"] > 0.1
    for wrong in (peer(0.5, ""), peer(1e-6, "does otherwise")):
        with pytest.raises(SystemExit, match="card: tool method"):
            card_peers.compare([wrong])


def test_passes_are_counted(pages: Any) -> None:
    from card_costs import Subject, counted
    from drawn_network import SIDE, load_network

    subject = Subject("drawn", load_network(), "start.0", "head")
    photo = torch.zeros(1, 3, SIDE, SIDE)
    photo[..., :50] = 1.0
    cl.cam(subject.model.observe(photo), 3)
    with counted(subject) as passes:
        cl.cam(subject.model.observe(photo), 3, "layer_cam")
    assert passes.to_json()["forward"] == 1
    assert passes.to_json()["backward"] >= 1
    before = torch.autograd.grad
    with counted(subject) as passes:
        cl.cam(subject.model.observe(photo), 3, "ablation_cam")
    channels = subject.model.observe(photo).feature().shape[1]
    assert passes.last >= 1 + channels
    assert passes.first < channels
    assert torch.autograd.grad is before


def test_runs_of_the_benchmark_are_read_at_any_depth(
    pages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import card_results
    import card_tables
    from card_texts import card_texts

    score = {"mean": 0.25, "low": 0.125, "high": 0.375}
    gain = {"other": "grad_cam", "better": True, "real": True}
    cell = {"score": score, "difference": gain, "unbeaten_controls": ["centre"]}
    lines = [
        {"name": name, "title": name.upper(), "control": control, "cells": [cell]}
        for name, control in (("layer_cam", False), ("grad_cam_finer_gamma_0.6", False), ("random", True))
    ]
    column = {"title": "Deletion", "fill": "blur", "higher_is_better": False}
    run = {
        "photos": 40,
        "data": "birds",
        "model": "net",
        "suite": "faithfulness",
        "columns": [column],
        "methods": lines,
    }
    (tmp_path / "suite.json").write_text(json.dumps({"runs": [{"schema": "conceptlens.benchmark/1", **run}]}))
    monkeypatch.setattr(card_results, "RESULTS", tmp_path)
    texts = card_texts()
    for name, title in (("layer_cam", "LAYER_CAM"), ("finer_cam", "GRAD_CAM_FINER_GAMMA_0.6")):
        (shown,) = card_tables._of_benchmarks(texts[name])
        assert "On 40 photos of birds with net (suite `faithfulness`, `docs/results/suite.json`)" in shown
        assert f"|  | {title} | control: RANDOM |" in shown
        assert "| Deletion, fill blur (lower is better) | 0.25 [0.12, 0.38] ▲° | 0.25 [0.12, 0.38] ▲ |" in shown
    assert "not measured" in card_tables._of_benchmarks(texts["hires_cam"])[0]
    assert card_results.read_result("none.json") == {}


def test_the_committed_numbers_are_whole_and_name_no_place(measured: dict[str, Any]) -> None:
    assert list(measured) == ["name", "peers", "scenes", "costs", "setting"]
    assert set(measured["costs"]) == set(METHODS)
    assert set(measured["scenes"]["methods"]) >= {*METHODS} - {"loce"}
    text = (DOCS / "results" / "cards.json").read_text(encoding="utf-8")
    assert not any(place in text for place in ("/home/", "/root/", "/tmp/", "/work/"))
    for name in ("grad_cam", "hires_cam", "layer_cam", "xgrad_cam", "finer_cam"):
        for row in measured["costs"][name]:
            assert row["forward"] == 1
            assert row["operations"] <= 1.1
