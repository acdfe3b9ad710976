from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from conceptlens.io.errors import Failure
from conceptlens.localization.localization_cases import LoadedCase, choose_cases
from conceptlens.localization.localization_outputs import evaluation_page
from conceptlens.localization.localization_run import LocalizationRun
from conceptlens.localization.result_rows import Row
from conceptlens.localization.summary import summarise
from conceptlens.metrics import MAP_MASK_METRICS
from conceptlens.pages.mask_outline import LINE, outlined

pytestmark = pytest.mark.web

EVIL = """</style><script>alert(1)</script><img src=x onerror="document.title='broken'"> & "quoted" """
METHODS = ("ce_fam", "grad_cam", "random", "random (oracle)")
Open = Callable[..., Page]


def a_row(photo: int, group: str, method: str, concept: str) -> Row:
    quality = {"ce_fam": 0.5, "grad_cam": 0.1, "random": 0.0, "random (oracle)": 0.2}[method]
    value = quality + (photo % 7 - 3) / 20
    right, wrong = (
        dict.fromkeys(MAP_MASK_METRICS, value),
        dict.fromkeys(MAP_MASK_METRICS, 0.05 if method == "ce_fam" else value),
    )
    return Row(f"photo {photo:02}.jpg", concept, "object", group, method, 0.2, method != "random", right, "car", wrong)


def some_rows(concept: str = "cat") -> list[Row]:
    pairs = [(p, g) for p in range(20) for g in ("thing", "stuff")]
    return [a_row(p, g, m, f"{concept} {g}") for p, g in pairs for m in METHODS]


def shown(rows: list[Row], tall: bool = False) -> list[LoadedCase]:
    size = (90, 160) if tall else (160, 90)
    mask = np.zeros(size[::-1], bool)
    mask[20:60, 30:70] = True
    grid = np.random.default_rng(0).random((7, 7))
    return [
        LoadedCase(
            case,
            Image.new("RGB", size, "tan"),
            mask,
            {row.method: grid - 0.5 * (row.method == "random") for row in case.rows},
            {row.method: row.method == "random" for row in case.rows},
            (0.1, 0.0, 0.9, 1.0),
        )
        for case in choose_cases(rows, "ce_fam")
    ]


def page_of(
    rows: list[Row],
    reference: str | None = "grad_cam",
    data: str = "coco_panoptic val",
    failures: Sequence[Failure] = (),
) -> str:
    description = {"data": data, "model": "timm:x", "settings": {"seed": 0, "split": data}}
    methods = dict.fromkeys(METHODS)
    run = LocalizationRun(
        SimpleNamespace(excluded={}), methods, rows, failures, summarise(rows, reference), description
    )  # pyright: ignore
    return evaluation_page(run, shown(rows))


@pytest.fixture
def opened(visit: Open, tmp_path: Path) -> Open:
    def show(width: int = 1280, scheme: str = "light", concept: str = "cat", **about: Any) -> Page:
        file = tmp_path / "page.html"
        file.write_text(page_of(some_rows(concept), **about), encoding="utf-8")
        return visit(file, width, scheme)

    return show


def test_the_table_holds_the_numbers_and_marks_the_best(opened: Open) -> None:
    page = opened()
    expect(page.get_by_role("heading", level=1)).to_have_text("Where do methods point when a concept is named?")
    rows = some_rows()
    line = summarise(rows).methods[0]
    mean = line.scores["macro"]["ranked_area_corrected"].mean
    sheet = page.locator(".sheet:visible")
    expect(sheet).to_have_count(1)
    first = sheet.locator("tbody tr").first
    expect(first.locator("th")).to_have_text("CE-FAM")
    expect(first.locator("td.lead b")).to_have_text(f"{mean:.3f}")
    assert first.locator("td.best").count() == 7
    expect(first.locator("td.change.sure").first).to_contain_text("+")
    expect(sheet.locator(".oracles tr").nth(0)).to_contain_text("Oracle")
    assert sheet.locator(".oracles td.best").count() == 0
    expect(sheet.locator("tfoot td").first).to_have_text("0")
    expect(sheet.locator("tbody tr", has_text="random").first).to_contain_text("has an answer for 0%")


def test_the_plot_stands_where_the_numbers_say(opened: Open) -> None:
    page = opened()
    sheet = page.locator(".sheet:visible")
    dots = [float(c.get_attribute("cx").rstrip("%")) for c in sheet.locator("circle.right").all()]  # pyright: ignore
    values = [float(v.replace("−", "-")) for v in sheet.locator(".plot .value").all_inner_texts()]
    slope, offset = np.polyfit(values, dots, 1)
    assert slope > 0
    assert np.abs(np.array(values) * slope + offset - dots).max() < 0.5
    zero = float(sheet.locator("line.zero").first.get_attribute("x1").rstrip("%"))  # pyright: ignore
    assert zero == pytest.approx(offset, abs=0.5)
    assert sheet.locator(".plot .name").last.inner_text() == "random (oracle)"


def test_groups_change_by_mouse_and_keyboard(opened: Open) -> None:
    page = opened()
    page.get_by_text("stuff", exact=True).first.click()
    expect(page.locator(".sheet:visible h2")).to_have_text("NRA above chance: stuff")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".sheet:visible h2")).to_have_text("NRA above chance: thing")
    page.emulate_media(media="print")
    expect(page.locator(".sheet:visible")).to_have_count(4)


def test_cases_show_the_mask_and_every_map(opened: Open) -> None:
    page = opened()
    expect(page.locator(".kind h2")).to_have_text([re.compile(f"^{k} of CE-FAM") for k in ("Best", "Median", "Worst")])
    articles = page.locator("article")
    expect(articles).to_have_count(9)
    for image in articles.first.locator("img").all():
        assert image.evaluate("i => i.complete && i.naturalWidth > 50")
        assert image.get_attribute("alt")
    expect(articles.first.locator("figcaption")).to_have_count(4)  # mask, CE-FAM, Grad-CAM, random; no oracle
    values = [float(v.replace("−", "-")) for v in page.locator("figure.large figcaption b").all_inner_texts()]
    assert min(values[:3]) >= max(values[3:6]) >= min(values[3:6]) >= max(values[6:])


@pytest.mark.parametrize("width", [320, 768])
def test_no_width_scrolls_sideways(opened: Open, width: int) -> None:
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width < 760:
        cell = page.locator(".sheet:visible tbody td.lead").first
        assert cell.evaluate("c => getComputedStyle(c, '::before').content") == '"NRA above chance"'


def test_dark_and_light_follow_the_reader(opened: Open) -> None:
    def lightness(page: Page) -> float:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    assert lightness(opened(scheme="light")) > 200
    assert lightness(opened(scheme="dark")) < 60


def test_hostile_names_stay_text_and_nothing_runs(opened: Open) -> None:
    page = opened(concept=EVIL, data=EVIL, failures=[Failure(EVIL, EVIL)])
    assert page.title().startswith("Where methods point: </style>")
    assert page.locator("script").count() == 0
    assert page.locator("article h3").first.inner_text().startswith("</style>")
    expect(page.locator(".failures li")).to_contain_text("alert(1)")
    policy = page.locator("meta[http-equiv]").get_attribute("content") or ""
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_one_method_alone_makes_a_page_without_comparisons() -> None:
    rows = [dataclasses.replace(r, wrong_scores={}, wrong_concept=None) for r in some_rows() if r.method == "ce_fam"]
    text = page_of(rows, reference=None)
    assert "minus Grad-CAM" not in text
    assert 'class="figure lead best"' not in text


def test_an_outline_follows_the_mask_and_leaves_the_photos_border_alone() -> None:
    mask = np.zeros((50, 100), bool)
    mask[:25, :40] = True
    drawn = np.asarray(outlined(Image.new("RGB", (200, 100), (100, 100, 100)), mask))
    assert tuple(drawn[49, 40]) == LINE
    assert tuple(drawn[20, 79]) == LINE
    assert tuple(drawn[0, 40]) == (100, 100, 100)
    assert tuple(drawn[90, 150]) == (55, 55, 55)
