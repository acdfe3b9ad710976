"""The page of a summary in a real browser: overview, the list of 10,000 photos, every width, light and dark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from conceptlens.summary import summarize
from conceptlens.summary.summary_page import write_page, write_photos
from summary_stores import MadePhoto, made_store, planted_photos

pytestmark = pytest.mark.web

EVIL = """</style><script>alert(1)</script><img src=x onerror="document.title='broken'"> & "quoted" """
Open = Callable[..., Page]


def written(folder: Path, photos: list[MadePhoto], pictures: int = 2000) -> Path:
    """Write the page of a store of made-up photos."""
    summary = summarize(made_store(folder / "store", photos))
    for _ in write_photos(summary, folder / "page", pictures):
        pass
    return write_page(summary, folder / "page")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("summary")
    photos = planted_photos(30, EVIL)
    draw = np.random.default_rng(0)
    for number, one in enumerate(photos):
        one.name = str(folder / "photos" / Path(one.name).relative_to("/photos"))
        Path(one.name).parent.mkdir(parents=True, exist_ok=True)
        size = (90, 160) if number % 2 else (160, 90)
        if number != 4:  # one that is gone
            Image.fromarray(draw.integers(60, 200, (*size, 3), dtype=np.uint8)).save(one.name)
    for one in photos[:27:3]:
        one.answer = "b"
    return written(folder, photos)


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_every_width_and_lists_photos_with_pictures(
    visit: Open, page: Path, width: int, scheme: str
) -> None:
    shown = visit(page, width, scheme)
    expect(shown.locator("#count")).to_have_text("1–60 of 90 photos")
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.title() == "What 90 photos say of made"
    first = shown.locator(".card").first
    expect(first.locator("h3")).to_contain_text("1. b:")
    assert first.locator("svg rect").count() > 0
    picture = shown.locator("#list img").first
    picture.scroll_into_view_if_needed()
    expect(picture).to_have_js_property("complete", True)
    assert picture.evaluate("image => image.naturalWidth") > 0
    expect(shown.locator("#list .none")).to_have_count(1)


def test_photos_are_searched_filtered_sorted_and_paged(visit: Open, page: Path) -> None:
    shown = visit(page)
    count = shown.locator("#count")
    shown.locator("#wrong").check()
    expect(count).to_have_text("1–9 of 9 photos, 90 in all")
    expect(shown.locator("#list li").first).to_contain_text("labelled a")
    shown.locator("#wrong").uncheck()
    shown.locator("#class").select_option(label="c")
    expect(count).to_have_text("1–30 of 30 photos, 90 in all")
    shown.locator("#search").fill("thing of c")
    expect(count).to_have_text("1–30 of 30 photos, 90 in all")
    shown.locator("#search").fill("nothing like it")
    expect(count).to_have_text("0 photos, 90 in all")
    shown.locator("#search").fill("")
    shown.locator("#class").select_option("")
    shown.locator("#order").select_option("answer")
    expect(shown.locator("#list b").first).to_have_text("a 90%")
    shown.locator("#after").click()
    expect(count).to_have_text("61–90 of 90 photos")
    expect(shown.locator("#after")).to_be_disabled()
    expect(shown.locator("#list b").last).to_have_text("c 90%")


def test_ten_thousand_photos_are_paged_through_in_bounded_size(visit: Open, tmp_path: Path) -> None:
    page = written(tmp_path, planted_photos(3400, "mark"), pictures=0)
    files = list((page.parent / "photos").iterdir())
    assert len(files) == 11
    assert max(file.stat().st_size for file in files) < 300_000
    assert page.stat().st_size < 200_000
    shown = visit(page)
    expect(shown.locator("#count")).to_have_text("1–60 of 10200 photos")
    shown.locator("#search").fill("10199.png")
    expect(shown.locator("#count")).to_have_text("1–1 of 1 photo, 10200 in all")
    assert shown.locator("#list li").count() == 1


def test_without_the_folder_beside_it_the_page_says_so(visit: Open, page: Path, tmp_path: Path) -> None:
    alone = tmp_path / "index.html"
    alone.write_bytes(page.read_bytes())
    with pytest.raises(AssertionError, match="ERR_FILE_NOT_FOUND"):  # the fixture takes no message of the browser
        visit(alone)
