"""The page of discovered concepts in a real browser: walls, words, every width, light and dark."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect

from conceptlens.discovery.concept_count import Candidate
from conceptlens.discovery.concept_places import Place, Suggestion
from conceptlens.discovery.discovered_concepts import DiscoveredConcepts
from conceptlens.discovery.discovery_page import SIDE, tile, write_discovery_page
from conceptlens.pages.mask_outline import LINE

pytestmark = pytest.mark.web

EVIL = """</style><script>alert(1)</script><img src=x onerror="document.title='broken'"> & "quoted" """
Open = Callable[..., Page]


def a_place(photo: Path | str, strength: float, box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)) -> Place:
    activations = torch.zeros(4, 4)
    activations[1, 2] = strength
    return Place(str(photo), 1, 2, strength, box, activations)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> DiscoveredConcepts:
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    sizes = [(160, 90), (90, 160), (120, 120)] * 4
    files = []
    for index, size in enumerate(sizes):
        files.append(folder / f"{index}.png")
        Image.fromarray(draw.integers(60, 200, (*size[::-1], 3), dtype=np.uint8)).save(files[-1])
    walls = [files, files[:5], [*files[:2], folder / "gone.png"]]
    return DiscoveredConcepts(
        directions=torch.eye(3, 8),
        names=("", EVIL, "sky"),
        suggestions=((), (Suggestion("grass", 0.91, 0.2, 0.7), Suggestion(EVIL, 0.6, 0.3, 0.5)), ()),
        places=tuple(tuple(a_place(file, 9.0 - i) for i, file in enumerate(wall)) for wall in walls),
        activity=(0.21, 0.04, 0.012),
        stability=(0.97, 0.84, 0.4),
        shared=(22.0, 9.0, 2.0),
        model="timm:a_model",
        model_identity="0" * 32,
        layer="features",
        candidates=(
            Candidate(2, 2, 0.3, 0.9, 0.3), Candidate(5, 3, 0.41, 0.85, 0.2),
            Candidate(9, 4, 0.415, 0.7, 0.2), Candidate(12, 0, -0.02, 0.5, 0.2),
        ),
        chosen=1,
        diagnostics={
            "photos": 12, "held_out": 2, "cells": 192, "cells_of_photo": 16, "signed": False, "explained": 0.41,
            "accounted": 0.262, "residual": 0.7, "seed": 0,
        },
        failures=(("bad.png", f"bad.png is {EVIL}"),),
    )  # fmt: skip


@pytest.fixture
def opened(visit: Open, found: DiscoveredConcepts, tmp_path: Path) -> Open:
    def show(width: int = 1280, scheme: str = "light", of: DiscoveredConcepts = found) -> Page:
        return visit(write_discovery_page(of, tmp_path), width, scheme)

    return show


def test_every_concept_has_its_wall_and_its_words(opened: Open) -> None:
    page = opened()
    expect(page.locator("article.concept")).to_have_count(3)
    assert [one.locator(".wall img").count() for one in page.locator("article.concept").all()] == [12, 5, 2]
    expect(page.locator("#concept-2 .gone")).to_have_text("gone.png is not there any more")
    expect(page.locator("#concept-0 h3")).to_have_text("concept 0")
    expect(page.locator("#concept-2 h3")).to_have_text(re.compile(r"sky\s+concept 2"))
    expect(page.locator("#concept-0 .about")).to_contain_text("No word is suggested.")
    expect(page.locator("#concept-1 .suggestions li").first).to_have_text(
        "grass presence 0.91, elsewhere 0.20; agreement of maps 0.70"
    )
    assert page.locator(".weak").all_inner_texts() == ["found again\n0.40", "photos that share it\n2"]
    sizes = page.locator(".wall img").evaluate_all("all => all.map(one => [one.naturalWidth, one.naturalHeight])")
    assert sizes == [[SIDE, SIDE]] * 19
    expect(page.locator("main")).to_contain_text("26% of the activation of a cell")


def test_the_table_says_what_was_tried_and_why_one_was_taken(opened: Open) -> None:
    page = opened()
    rows = [[cell.inner_text() for cell in row.locator("th, td").all()] for row in page.locator("tbody tr").all()]
    assert rows == [
        ["2", "2", "30%", "0.90", "0.30", "those of a larger number explain more"],
        ["5", "3", "41%", "0.85", "0.20", "taken"],
        ["9", "4", "42%", "0.70", "0.20", "explains hardly more than a smaller number"],
        ["12", "0", "–", "0.50", "0.20", "none is found again and shared"],
    ]
    expect(page.locator("main")).to_contain_text("Of 5 directions, 3 are kept")


def test_other_reasons(opened: Open, found: DiscoveredConcepts) -> None:
    asked = replace(found, candidates=found.candidates[1:2], chosen=0)
    expect(opened(of=asked).locator("main")).to_contain_text("5 concepts were asked for; other numbers were not tried")
    none = replace(found, candidates=tuple(replace(one, kept=0) for one in found.candidates), chosen=0)
    expect(opened(of=none).locator("main")).to_contain_text("No direction is found again")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_page(opened: Open, width: int, scheme: str) -> None:
    page = opened(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.title() == "Discovered concepts of timm:a_model"  # what names hold is text
    columns = page.locator(".wall").first.evaluate("one => getComputedStyle(one).gridTemplateColumns.split(' ').length")
    assert columns == (3 if width < 640 else 6)


def test_a_tile_is_a_square_around_its_region_which_is_outlined(tmp_path: Path) -> None:
    Image.new("RGB", (400, 100), (120, 120, 120)).save(tmp_path / "wide.png")
    made = tile(a_place(tmp_path / "wide.png", 2.0, (0.5, 0.0, 1.0, 1.0)))
    assert (made["width"], made["height"]) == (SIDE, SIDE)
    data = base64.b64decode(made["source"].partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    row, column = round(0.375 * SIDE), SIDE // 2  # the middle of the cell: in the middle of the square, but for its top
    assert abs(pixels[row, column] - 120).max() < 12
    assert abs(pixels - LINE).sum(2).min() < 90
    assert pixels[2, 2].max() < 100  # darker outside of the region
