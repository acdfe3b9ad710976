"""The page of a benchmark in a real browser: tables with intervals, plots, and photos with the map of every method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.text import Text
from playwright.sync_api import Page, expect

import conceptlens as cl
from conceptlens.benchmark.benchmark_figures import agreement_labels, intervals_figure
from conceptlens.benchmark.benchmark_outputs import write_benchmark
from conceptlens.benchmark.benchmark_result import BenchmarkResult, finished
from conceptlens.benchmark.benchmark_run import run_benchmark
from conceptlens.benchmark.bottleneck_suite import loc_cbm_suite
from conceptlens.benchmark.class_suites import faithfulness_suite
from conceptlens.benchmark.comparison_table import marks, measure_heading
from conceptlens.benchmark.protocol import Measure
from conceptlens.benchmark.suite_options import PreparedSuite, SuiteOptions
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.local_embeddings.report.figure_style import FIGURE_STYLES
from conceptlens.pages.number_format import interval_text, number

pytestmark = pytest.mark.web

EVIL = """</style><script>alert(1)</script><img src=x onerror="document.title='broken'"> & "quoted" """
LONG = "a bottleneck whose folder has a long name"
Open = Callable[..., Page]


def measured(suite: PreparedSuite, folder: Path) -> tuple[Path, BenchmarkResult]:
    """Run a suite and return its page and numbers."""
    assert list(run_benchmark(suite.task, folder))[-1].failures == 0
    result = finished(suite, folder)
    write_benchmark(folder, result)
    return folder / "benchmark.html", result


@pytest.fixture(scope="module")
def concepts(
    birds: Path, bird_model: cl.Backbone, spotter: Bottleneck, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, BenchmarkResult]:
    """Two bottlenecks on drawn birds, all metrics of maps."""
    named = {"spotter": spotter, LONG: spotter, EVIL: spotter}
    metrics = ["keypoint_error", "keypoint_pointing", "keypoint_own", "keypoint_swap", "pointing_energy"]
    suite = loc_cbm_suite(SuiteOptions(f"cub:{birds}", bird_model, bottleneck=named, metrics=metrics))
    return measured(suite, tmp_path_factory.mktemp("concepts"))


@pytest.fixture(scope="module")
def classes(
    birds: Path, bird_model: cl.Backbone, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, BenchmarkResult]:
    """Rules of class maps on drawn birds, with two fills."""
    options = SuiteOptions(
        f"cub:{birds}",
        bird_model,
        split="test",
        max_photos=9,
        methods=["grad_cam", "layer_cam"],
        metrics=["average_drop"],
    )
    return measured(faithfulness_suite(options), tmp_path_factory.mktemp("classes"))


def test_the_tables_hold_every_number_with_its_interval_and_marks(
    visit: Open, concepts: tuple[Path, BenchmarkResult], classes: tuple[Path, BenchmarkResult]
) -> None:
    for file, result in (concepts, classes):
        page, found = visit(file), result.comparison
        expect(page.get_by_role("heading", level=1)).to_have_text(result.suite.question)
        expect(page.locator(".sheet")).to_have_count(len(found.fills))
        for place, fill in enumerate(found.fills):
            sheet, measures = page.locator(".sheet").nth(place), found.measures_of(fill)
            heads = [one.inner_text() for one in sheet.locator("thead th").all()]
            assert heads == ["method", *map(measure_heading, measures), "not above controls"]
            rows = sheet.locator("tbody tr:not(.divider)")
            assert rows.count() == len(found.lines)
            for row, line in zip(rows.all(), found.lines, strict=True):
                assert " ".join(row.locator("th").inner_text().split()) == " ".join(line.method.title.split())
                for cell, measure in zip(row.locator("td").all(), measures, strict=False):
                    wanted = interval_text(line.cells[measure].interval, lambda value: number(value, 3))
                    assert cell.locator("b").inner_text() == wanted["value"]
                    assert cell.locator("small").inner_text() == wanted["spread"]
                    shown = cell.locator(".mark").all_inner_texts()
                    assert "".join(shown) == marks(line.cells[measure])
    assert page.title() != "broken"


def test_a_single_table_does_not_speak_of_removed_pixels(
    visit: Open, concepts: tuple[Path, BenchmarkResult], classes: tuple[Path, BenchmarkResult]
) -> None:
    page = visit(concepts[0])
    expect(page.locator(".sheet h2")).to_have_text(["Every metric"])
    assert "removed" not in page.inner_text("body")
    assert "photo inside" in page.locator("dl.words").first.inner_text()
    expect(visit(classes[0]).locator(".sheet h2")).to_have_text(
        ["Removed pixels become: mean", "Removed pixels become: blur"]
    )


def test_cases_show_the_photo_and_the_map_of_every_method(
    visit: Open, concepts: tuple[Path, BenchmarkResult], classes: tuple[Path, BenchmarkResult]
) -> None:
    for (file, result), left_out in ((concepts, 1), (classes, 0)):
        page = visit(file)
        kinds = page.locator(".kind h2").all_inner_texts()
        assert ["does best" in kinds[0], "is as usual" in kinds[1], "does worst" in kinds[2]] == [True] * 3
        expect(page.locator("article")).to_have_count(6)
        for article in page.locator("article").all():
            # A random cell has no map.
            expect(article.locator(".others figure")).to_have_count(len(result.comparison.lines) - left_out)
            for image in article.locator("img").all():
                assert image.evaluate("i => i.complete && i.naturalWidth > 40")
                assert image.get_attribute("alt")
        gains = [
            float(text.split("gain ")[1].replace("−", "-")) for text in page.locator("article h3").all_inner_texts()
        ]
        assert min(gains[:2]) >= max(gains[2:4]) >= min(gains[2:4]) >= max(gains[4:])


@pytest.mark.parametrize("width", [1280, 760, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(
    visit: Open, concepts: tuple[Path, BenchmarkResult], classes: tuple[Path, BenchmarkResult], width: int, scheme: str
) -> None:
    for file, _ in (concepts, classes):
        page = visit(file, width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        beyond = page.evaluate(
            """() => [...document.querySelectorAll("h1, h2, h3, p, dd, dt, td, th, figcaption, img")]
              .filter((one) => !one.closest(".scroll") || innerWidth < 641)
              .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
              .map((one) => one.outerHTML.slice(0, 90))"""
        )
        assert beyond == []
        for image in page.locator(".plot img").all():
            assert image.evaluate("i => i.complete && i.naturalWidth > 200")
            assert image.get_attribute("alt")


def test_a_case_shows_photo_and_maps_in_one_size(visit: Open, classes: tuple[Path, BenchmarkResult]) -> None:
    for width, across in ((1280, 4), (390, 2)):
        article = visit(classes[0], width).locator("article").first
        boxes = [one.bounding_box() for one in article.locator("img").all()]
        assert len({(round(box["width"]), round(box["height"])) for box in boxes if box}) == 1
        assert sum(box is not None and boxes[0] is not None and box["y"] == boxes[0]["y"] for box in boxes) >= across


def test_labels_of_agreement_differ_however_short() -> None:
    measures = [Measure("relative_drop_5", fill) for fill in ("mean", "blur", "noisy_linear")]
    measures += [Measure(f"relative_drop_{share}", "mean") for share in ("10", "area")]
    for longest in (10, 24, 40):
        labels = agreement_labels(measures, longest)
        assert len(set(labels)) == 5
        assert [label.rsplit("  ")[-1] for label in labels] == ["1", "2", "3", "4", "5"]
        assert "noisy linear" in labels[2]
    first, _, _, ten, every = agreement_labels(measures, 24)
    assert (first, ten, every) == ("relat…drop, 5 %, mean  1", "rela…drop, 10 %, mean  4", "rela…all shares, mean  5")


def test_titles_of_columns_in_the_plot_do_not_touch(concepts: tuple[Path, BenchmarkResult]) -> None:
    for style in FIGURE_STYLES:
        figure = intervals_figure(concepts[1].comparison, "", style)
        figure.canvas.draw()
        texts = [one for axes in figure.axes for one in axes.findobj(Text) if one.get_text().endswith(("↑", "↓"))]
        boxes = [one.get_window_extent() for one in texts]
        assert len(boxes) == len(concepts[1].comparison.measures)
        whole = figure.bbox
        for index, box in enumerate(boxes):
            assert box.x1 <= whole.x1
            assert box.y1 <= whole.y1
            assert not any(box.overlaps(other) for other in boxes[index + 1 :])
