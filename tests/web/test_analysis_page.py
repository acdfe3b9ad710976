from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from typer.testing import CliRunner

from conceptlens.cli import app
from conceptlens.local_embeddings.report.search_results import write_search
from conceptlens.store import EmbeddingRow, ImageRow, MaskRow, Store, row_id

pytestmark = pytest.mark.web

PLANTED = Path(__file__).parents[1] / "unit" / "analysis_store.py"
EVIL = """</style><script>alert(1)</script><img src=x onerror="document.title='broken'"> & "quoted" """
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the planted store of ten concepts, of which six are in figures."""
    folder = tmp_path_factory.mktemp("analysis")
    subprocess.run([sys.executable, str(PLANTED), str(folder)], check=True, timeout=120)
    words = ["analyze", str(folder / "store"), "--out-dir", str(folder / "out"), "--photos", str(folder / "photos")]
    done = CliRunner().invoke(app, [*words, "--max-rows", "12", "--max-concepts", "6"])
    assert done.exit_code == 0, done.output
    return folder / "out" / "analysis.html"


def test_the_page_answers_five_questions_in_order(analysis: Path, visit: Open) -> None:
    page = visit(analysis)
    expect(page.get_by_role("heading", level=1)).to_have_text("How well does timm:lite separate concepts?")
    headings = [text.split("\n")[0] for text in page.locator("section.below h2").all_inner_texts()]
    assert headings[:5] == [
        "How well is each concept found again? retrieval",
        "Which concepts are confused?",
        "Which concepts have sub-concepts?",
        "Which embeddings are unusual? outliers",
        "Which layer is best?",
    ]
    expect(page.locator(".summary div")).to_have_count(5)
    expect(page.locator(".summary div", has_text="Confusion").locator("dd")).to_contain_text("car with truck")
    expect(page.locator(".summary div", has_text="Best layer").locator("dd")).to_contain_text("layer2")
    expect(page.locator("#sub-concepts h3")).to_contain_text(["bird"])
    expect(page.locator("#outliers figcaption").first).to_have_text(re.compile(r"^\w+ 1\.\d×$"))
    expect(page.locator("#layers tbody tr")).to_have_count(3)
    expect(page.locator("#layers .mark")).to_have_text("best")
    expect(page.locator("#published tbody tr")).to_have_count(4)
    expect(page.locator(".notice")).to_contain_text("Figures and tiles show the 6 most frequent of 10 concepts")


def test_every_image_is_there_and_says_what_it_shows(analysis: Path, visit: Open) -> None:
    page = visit(analysis)
    page.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    page.wait_for_function("[...document.images].every(i => i.complete)")
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 20 && i.alt.length > 8)")
    expect(page.locator("figure.plot")).to_have_count(6)
    expect(page.locator("#retrieval .example")).to_have_count(6)
    expect(page.locator("#retrieval .example").first.locator("img")).to_have_count(9)
    assert page.locator(".tile.wrong figcaption").first.inner_text().startswith("✗ ")


def test_the_keyboard_opens_the_other_concepts_and_follows_the_questions(analysis: Path, visit: Open) -> None:
    page = visit(analysis)
    summary = page.locator("details.more summary")
    expect(summary).to_have_text("4 more concepts, with fewer embeddings")
    expect(page.locator("details.more table")).to_be_hidden()
    summary.focus()
    page.keyboard.press("Enter")
    expect(page.locator("details.more tbody tr")).to_have_count(4)
    expect(page.locator("details.more table")).to_be_visible()
    page.locator(".summary a").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#retrieval"
    assert abs(page.locator("#retrieval").evaluate("e => e.getBoundingClientRect().top")) < 60


@pytest.mark.parametrize("width", [320, 768])
def test_no_width_scrolls_sideways(analysis: Path, visit: Open, width: int) -> None:
    page = visit(analysis, width)
    page.locator("details.more summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = page.locator("figure.plot img").first
    assert shown.evaluate("i => i.naturalWidth") == (740 if width <= 640 else 2120)
    if width < 760:
        cell = page.locator("#retrieval tbody td.lead").first
        assert cell.evaluate("c => getComputedStyle(c, '::before').content") == '"mAP"'


def test_dark_and_light_follow_the_reader(analysis: Path, visit: Open) -> None:
    def lightness(page: Page) -> tuple[float, float]:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        figure = page.locator("figure.plot").first
        pixels = np.asarray(Image.open(BytesIO(figure.screenshot())).convert("L"))
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3, float(np.median(pixels))

    assert min(lightness(visit(analysis))) > 200
    assert max(lightness(visit(analysis, scheme="dark"))) < 60


@pytest.mark.slow
def test_names_from_a_store_are_text_and_no_markup(tmp_path: Path, visit: Open) -> None:
    store = Store(tmp_path / "store", create=True)
    images = [ImageRow(row_id(f"{i}"), "run", f"{EVIL}{i}", width=60, height=40) for i in range(6)]
    area = np.zeros((40, 60), bool)
    area[10:30, 20:50] = True
    masks = [MaskRow.from_mask(row_id(one.id, "mask"), one.id, EVIL, area) for one in images]
    draw = np.random.default_rng(0)
    rows = [
        EmbeddingRow(
            id=row_id(one.id, "row"), run="run", image=one.id, concept=EVIL, model="timm:x", layer="<b>deep</b>",
            mode="mean_difference", vector=draw.normal(1, 0.2, 6).astype(np.float32), mask=mask.id,
        )
        for one, mask in zip(images, masks, strict=True)
    ]  # fmt: skip
    store.append(images, rows, masks)
    done = CliRunner().invoke(app, ["analyze", str(tmp_path / "store"), "--out-dir", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    page = visit(tmp_path / "out" / "analysis.html", 390)
    assert page.title() == "Analysis of timm:x"
    assert page.locator("script").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("#retrieval tbody th").first).to_contain_text("<script>alert(1)</script>")

    found = store.nearest(rows[0].vector, 4, layer="<b>deep</b>")
    results = [{"concept": EVIL, "image": EVIL, "similarity": 0.5}] * 4
    numbers = {"store": EVIL, "image": EVIL, "model": "m", "layer": "l", "mode": "mean_difference", "found": results}
    write_search(tmp_path / "found.html", store, Image.new("RGB", (60, 40), "tan"), area, found, numbers)
    page = visit(tmp_path / "found.html", 390)
    expect(page.locator(".tiles.found figure")).to_have_count(4)
    assert page.locator("script").count() == 0
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 20 && i.alt.length > 8)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
