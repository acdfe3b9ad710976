"""The page of a bottleneck in a real browser: sums that add up, maps that are there, every width, light and dark."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

import conceptlens as cl
from coloured_birds import CLASSES, CONCEPTS
from conceptlens.bottleneck.concept_edit import Edit
from conceptlens.bottleneck.evaluate.bottleneck_evaluation import evaluate_bottleneck
from conceptlens.bottleneck.evaluate.bottleneck_result import BottleneckResult
from conceptlens.bottleneck.evaluate.case_selection import CaseSelection, select_cases
from conceptlens.bottleneck.evaluate.intervention_curve import CONTROL, NOT_MEASURED, Interventions
from conceptlens.bottleneck.intervention import with_edits, with_weights
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.bottleneck.report.bottleneck_files import write_bottleneck_report
from conceptlens.bottleneck.report.bottleneck_page import bottleneck_page
from conceptlens.bottleneck.report.case_images import CaseImages, read_case_images
from conceptlens.bottleneck.report.intervention_view import DRAWN, intervention_sentence
from conceptlens.data.cub import Cub

pytestmark = pytest.mark.web

EVIL = """</style><script>alert(1)</script><img src=x onerror="document.title='broken'"> & "quoted\""""
CHOICE = CaseSelection(classes=("robin", "jay"), pairs=(("robin", "jay"),), max_photos=6, max_concepts=3)
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def measures(spotter: Bottleneck, bird_model: cl.Backbone, birds: Path) -> BottleneckResult:
    sets = Cub(birds, "all"), Cub(birds, "train")
    return evaluate_bottleneck(spotter, bird_model, *sets, interventions=True, n_bootstrap=100)


@pytest.fixture(scope="module")
def report(
    spotter: Bottleneck,
    bird_model: cl.Backbone,
    measures: BottleneckResult,
    birds: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("report")
    record = {"bottleneck": "birds", "settings": {"split": "all", "leakage": False}}
    return write_bottleneck_report(out, spotter, bird_model, Cub(birds, "all"), measures, CHOICE, record)[0]


@pytest.fixture
def opened(visit: Open, report: Path) -> Open:
    def show(width: int = 1280, scheme: str = "light") -> Page:
        return visit(report, width, scheme)

    return show


def number(text: str) -> int:
    """Return a shown number in hundredths."""
    return round(100 * float(text.replace("−", "-").replace("+", "")))


def sums(page: Page, kind: str) -> list[tuple[list[int], int]]:
    """Return the numbers of each sum, and their total, in hundredths."""
    found = []
    for article in page.locator(kind).all():
        parts = [number(text) for text in article.locator(".sum li:not(.total) .adds").all_inner_texts()]
        found.append((parts, number(article.locator(".sum .total .adds").inner_text())))
    return found


@pytest.mark.parametrize(("kind", "count"), [("article.photo", 6), ("article.error", None), ("#pairs article", 1)])
def test_what_is_shown_adds_up(opened: Open, kind: str, count: int | None) -> None:
    found = sums(opened(), kind)
    assert found
    assert count is None or len(found) == count
    for parts, total in found:
        assert len(parts) >= 3
        assert sum(parts) == total


def test_sums_are_those_of_the_bottleneck(opened: Open, spotter: Bottleneck, measures: BottleneckResult) -> None:
    page = opened()
    cases = select_cases(spotter, measures.table, CHOICE)
    for case, article in zip(cases.photos, page.locator("article.photo").all(), strict=True):
        logit = float(measures.table.logits[case.row].max())
        assert number(article.locator(".total .adds").inner_text()) == round(100 * logit)
        expect(article.locator("figcaption")).to_have_text(measures.table.names[case.row])
        right = int(measures.table.classes[case.row]) == int(measures.table.predicted[case.row])
        expect(article.locator(".outcome")).to_have_class(re.compile("right" if right else "wrong"))
        names = article.locator(".sum li:not(.plain):not(.total) .what b").all_inner_texts()
        assert names == [CONCEPTS[term.concept].label for term in case.terms]
    expect(page.locator("article.error")).to_have_count(len(cases.errors))
    for case, article in zip(cases.errors, page.locator("article.error").all(), strict=True):
        texts = article.locator(".sum li:not(.plain):not(.total) .then").all_inner_texts()
        for term, text in zip(case.terms, texts, strict=True):
            assert list(CLASSES)[term.predicted_without] in text
            assert ("which is right" in text) == (term.predicted_without == case.truth)


def test_bars_stand_for_their_numbers(opened: Open) -> None:
    page = opened()
    for article in page.locator("article.photo").all():
        values, widths, kinds = [], [], []
        for row in article.locator(".sum li:not(.total)").all():
            bar = row.locator(".bar rect")
            values.append(number(row.locator(".adds").inner_text()))
            widths.append(float((bar.get_attribute("width") or "").rstrip("%")))
            kinds.append(bar.get_attribute("class"))
        slope = max(widths) / max(map(abs, values))
        assert np.abs(np.array(widths) - slope * np.abs(values)).max() < 1
        assert all((kind == "against") == (value < 0) for kind, value in zip(kinds, values, strict=True) if value)


def test_every_section_is_there_with_its_pictures(opened: Open, measures: BottleneckResult) -> None:
    page = opened()
    expect(page.get_by_role("heading", level=1)).to_have_text("Which concepts does this bottleneck use, and how well?")
    for section in ("metrics", "classes", "photos", "pairs", "errors", "concepts", "words"):
        expect(page.locator(f"#{section}")).to_be_visible()
        expect(page.locator(f".contents a[href='#{section}']")).to_have_count(1)
    expect(page.locator("#classes article h3")).to_have_text(["robin", "jay"])
    expect(page.locator("#classes article").first.locator(".tiles img")).to_have_count(9)
    for image in page.locator("img").all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("i => i.decode().then(() => i.naturalWidth)") > 30
        assert image.get_attribute("alt")
    error = measures.metric("keypoint_error")
    row = page.locator(".measure", has_text="Keypoint alignment error")
    assert error.value is not None
    expect(row.locator(".value b")).to_have_text(f"{error.value.mean:.2f}")
    expect(row.locator(".controls li")).to_have_count(5)
    expect(row).to_contain_text("lower is better")
    page.get_by_text("What was not measured, and why").click()
    expect(page.locator("#metrics .reasons")).to_contain_text("it was not requested")
    page.get_by_text("1 concept left out of the fit, and why").click()
    expect(page.locator("#concepts .reasons")).to_contain_text("striped tail: nobody shows it")
    rows = page.locator("#concepts tbody tr")
    expect(rows).to_have_count(len(CONCEPTS))
    expect(rows.filter(has_text="shiny").locator("td.figure").last).to_have_text("–")


@pytest.mark.parametrize("width", [390, 1280])
def test_how_far_it_can_be_trusted_stands_beside_every_map(opened: Open, width: int) -> None:
    page = opened(width)
    rows = page.locator(".sum li:has(img), .weights li, #concepts tbody tr").all()
    assert len(rows) > 20
    names = set()
    for row in rows:
        known = row.locator(".known")
        expect(known).to_be_visible()
        name = row.locator("b, th").first.inner_text().split("\n")[0]
        names.add(name.split(" ")[0])
        place = "place not checked" if name == "shiny" else re.compile(r"at its part in \d+% of \d+ checked")
        expect(known.locator("span").first).to_have_text(place)
        expect(known.locator("span").first).to_have_class("doubt" if name == "shiny" else "")
        expect(known.locator("span").last).to_have_text("not known how its targets were made")
    assert "shiny" in names
    meanings = page.locator("#photos .prose.small")
    expect(meanings).to_contain_text("Place not checked: no mask or keypoint says where this is.")
    expect(meanings).to_contain_text("fit it again to know")
    short = page.locator(".short div", has_text="Were all maps checked?").locator("dd")
    expect(short).to_contain_text("Place not checked: no mask or keypoint says where this is (shiny).")


def test_doubts_are_in_colour_and_what_is_known_is_not(
    visit: Open, spotter: Bottleneck, bird_model: cl.Backbone, measures: BottleneckResult, birds: Path, tmp_path: Path
) -> None:
    kinds = zip(measures.map_evidence, ("classes", "photos", "detections", "vlm", "none"), strict=True)
    told = replace(measures, map_evidence=tuple(replace(one, targets=kind) for one, kind in kinds))
    record = {"bottleneck": "birds", "settings": {}}
    choice = replace(CHOICE, max_concepts=5)
    page = visit(write_bottleneck_report(tmp_path, spotter, bird_model, Cub(birds, "all"), told, choice, record)[0])
    colours = {}
    for row, concept in zip(page.locator("#concepts tbody tr").all(), ("red", "blue", "green", "yellow"), strict=False):
        span = row.locator(".known span").last
        assert row.inner_text().startswith(concept)
        colours[span.inner_text()] = span.evaluate("e => getComputedStyle(e).color")
    assert len(colours) == 4
    quiet = colours.pop("learned from labels of whole photos")
    assert "learned from class labels only" in colours
    assert len(set(colours.values())) == 1
    assert quiet not in colours.values()
    expect(page.locator("#classes .prose.small")).to_contain_text("the map may follow the class, not the concept")


@pytest.mark.parametrize("width", [390, 1280])
def test_corrections_are_drawn_and_told(opened: Open, measures: BottleneckResult, width: int) -> None:
    page = opened(width)
    section, curves = page.locator("#corrections"), measures.interventions.curves
    expect(section.locator(".finding")).to_have_text(intervention_sentence(measures))
    plot = section.locator(".curves svg").bounding_box()
    assert plot is not None
    assert 0 <= plot["x"] < plot["x"] + plot["width"] <= width
    for name, one in curves.items():
        points = one.points
        dots = [dot.bounding_box() for dot in section.locator(f"g.{DRAWN[name][0]} circle").all()]
        assert len(dots) == len(points) == 3
        for dot, point in zip(dots, points, strict=True):
            assert dot is not None
            x, y = dot["x"] + dot["width"] / 2, dot["y"] + dot["height"] / 2
            assert x == pytest.approx(plot["x"] + plot["width"] * point.corrected / 2, abs=1)
            assert y == pytest.approx(plot["y"] + plot["height"] * (1 - point.accuracy.mean), abs=1)
    expect(section.locator(".curves text")).to_have_text(["0%", "25%", "50%", "75%", "100%", "0", "1", "2"])
    expect(section).to_contain_text("corrected groups of concepts, of 2")
    expect(section).to_contain_text("photos that are right")
    expect(section).to_contain_text("Class attributes tell the class as well as the concept")
    section.get_by_text("The numbers of the plot").click()
    expect(section.locator("tbody th")).to_have_text(["0 groups", "1 group", "2 groups"])
    cells = section.locator("tbody tr").last.locator("td").all_inner_texts()
    for name, cell in zip(curves, cells[1:], strict=True):
        assert f"{100 * curves[name].points[-1].accuracy.mean:.1f}%" in cell
    stroke = "e => getComputedStyle(e).stroke"
    strokes = {name: section.locator(f"g.{DRAWN[name][0]} circle").first.evaluate(stroke) for name in curves}
    red, green, blue = (int(one) for one in re.findall(r"\d+", strokes[CONTROL]))
    assert max(red, green, blue) - min(red, green, blue) < 40  # grey
    assert len(set(strokes.values())) == 3


def test_corrections_that_were_not_measured_are_left_out_with_the_reason(
    visit: Open, spotter: Bottleneck, measures: BottleneckResult, tmp_path: Path
) -> None:
    cases = select_cases(spotter, measures.table, CaseSelection(max_photos=0))
    few = replace(cases, classes=(), pairs=(), errors=())
    for measured, count in ((measures.interventions, 1), (Interventions(reason=NOT_MEASURED), 0)):
        text = bottleneck_page(spotter, replace(measures, interventions=measured), few, CaseImages({}, {}, {}), {})
        file = tmp_path / f"{count}.html"
        file.write_text(text, "utf-8")
        page = visit(file)
        expect(page.locator("#corrections")).to_have_count(count)
        expect(page.locator("a[href='#corrections']")).to_have_count(count)
        page.get_by_text("What was not measured, and why").click()
        reasons = page.locator("#metrics .reasons div", has_text="Test-time intervention")
        expect(reasons).to_have_count(1 - count)
        if not count:
            expect(reasons).to_contain_text("it was not requested (--interventions): it reads all train photos")


def test_a_map_is_drawn_where_the_bottleneck_sees(
    spotter: Bottleneck, bird_model: cl.Backbone, measures: BottleneckResult, birds: Path
) -> None:
    photos = Cub(birds, "all")
    pictures = read_case_images(spotter, bird_model, photos, measures.table, {4: {0}, 20: {1, 2}})
    assert set(pictures.maps) == {(4, 0), (20, 1), (20, 2)}
    assert photos.annotation is not None
    points = photos.annotation.keypoints
    assert points is not None
    for row, concept in ((4, 0), (20, 1)):
        x, y = points.xy[row, points.names.index("beak")]
        photo = np.asarray(photos[row].convert("RGB")).astype(int)
        row_, column = int(y * 48), int(x * 64)
        assert photo[row_, column].tolist() == ([255, 0, 0] if concept == 0 else [0, 0, 255])
        grid = pictures.maps[row, concept]
        peak = np.unravel_index(grid.argmax(), grid.shape)
        assert abs(peak[0] - row_ / 8 + 0.5) <= 1
        assert abs(peak[1] - column / 8 + 0.5) <= 1
        cut = pictures.crop(row, concept)
        assert cut["width"] == cut["height"]
        assert pictures.overlay(row, concept)["width"] == 64


@pytest.mark.parametrize("width", [320, 768])
def test_no_width_scrolls_sideways(opened: Open, width: int) -> None:
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for detail in page.locator("details").all():
        detail.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    overlaps = page.evaluate(
        """() => [...document.querySelectorAll('.sum li, .weights li')].filter(li => {
            const what = li.querySelector('.what').getBoundingClientRect();
            return [...li.querySelectorAll('img')].some(i => {
                const r = i.getBoundingClientRect();
                const beside = r.left >= what.right - 1 || what.left >= r.right - 1;
                return !beside && r.top < what.bottom - 1 && what.top < r.bottom - 1;
            });
        }).length"""
    )
    assert overlaps == 0
    if width < 760:
        cell = page.locator("#concepts td.figure").first
        assert cell.evaluate("c => getComputedStyle(c, '::before').content") == '"classes that use it"'


def test_bars_of_one_sum_share_their_zero_at_every_width(opened: Open) -> None:
    for width in (390, 1280):
        page = opened(width)
        for sheet in page.locator(".sum").all():
            zeros = sheet.locator(".bar .zero").evaluate_all("l => l.map(z => Math.round(z.getBoundingClientRect().x))")
            assert max(zeros) - min(zeros) <= 1


def test_dark_and_light_follow_the_reader(opened: Open) -> None:
    def lightness(place: Locator, what: str) -> float:
        colour = place.evaluate(f"e => getComputedStyle(e).{what}")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    for scheme, dark in (("light", False), ("dark", True)):
        page = opened(scheme=scheme)
        body = page.locator("body")
        assert (lightness(body, "backgroundColor") < 60) == dark
        assert (lightness(body, "color") > 180) == dark
        assert lightness(page.locator(".bar .for").first, "fill") != lightness(body, "backgroundColor")


def test_hostile_names_stay_text_and_nothing_runs(
    visit: Open, spotter: Bottleneck, measures: BottleneckResult, tmp_path: Path
) -> None:
    evil = with_weights(with_edits(spotter, [Edit(0, 0.0, 1.0, note=EVIL)]), {("robin", "shiny"): 0.0}, EVIL)
    evil.classes = (EVIL, *spotter.classes[1:])
    evil.concepts = (replace(spotter.concepts[0], label=EVIL), *spotter.concepts[1:])
    evil.training_record["dropped"] = [{"label": EVIL, "reason": EVIL}]
    record = replace(measures, data=EVIL)
    cases = select_cases(evil, measures.table, replace(CHOICE, classes=(EVIL,), pairs=()))
    grey = Image.new("RGB", (64, 48), (90, 90, 90))
    needed = cases.needed()
    maps = {(row, concept): np.ones((6, 8)) for row, own in needed.items() for concept in own}
    pictures = CaseImages(dict.fromkeys(needed, grey), dict.fromkeys(needed, (0.0, 0.0, 1.0, 1.0)), maps)
    text = bottleneck_page(evil, record, cases, pictures, {EVIL: EVIL})
    file = tmp_path / "evil.html"
    file.write_text(text, "utf-8")
    page = visit(file)
    assert page.title().startswith("Concepts of a bottleneck: </style>")
    assert page.locator("script").count() == 0
    assert page.locator("#classes h3").first.inner_text().startswith("</style>")
    expect(page.locator(".notice")).to_contain_text("Edited by hand")
    expect(page.locator(".notice")).to_contain_text("1 weight of the last layer was changed by hand")
    policy = page.locator("meta[http-equiv]").get_attribute("content") or ""
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_a_page_without_errors_or_shown_photos_is_whole(
    visit: Open, spotter: Bottleneck, measures: BottleneckResult, tmp_path: Path
) -> None:
    table = measures.table
    rows = (table.predicted == table.classes).nonzero()[:, 0]
    some = {name: getattr(table, name)[rows] for name in ("indices", "classes", "activations", "logits")}
    few = replace(table, names=tuple(table.names[row] for row in rows.tolist()), maps=table.maps[rows], **some)
    cases = select_cases(spotter, few, CaseSelection(max_photos=0))
    bare = replace(cases, classes=(), pairs=())
    text = bottleneck_page(spotter, replace(measures, table=few), bare, CaseImages({}, {}, {}), {})
    file = tmp_path / "bare.html"
    file.write_text(text, "utf-8")
    page = visit(file)
    expect(page.locator("#errors")).to_contain_text("No photo is wrong.")
    for section in ("classes", "photos", "pairs"):
        expect(page.locator(f"#{section}")).to_have_count(0)
        expect(page.locator(f"a[href='#{section}']")).to_have_count(0)
