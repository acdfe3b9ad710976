"""The page of a detector's detections in a real browser: boxes where they are, words that say what they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser_tabs import Tabs
from PIL import Image
from playwright.sync_api import Page
from torch import nn

import conceptlens as cl
from conceptlens.explainer.detection_run import explain_detections
from conceptlens.explainer.page_content import page_content
from conceptlens.explainer.photo_result import PhotoResult
from conceptlens.explainer.report_page import write_page
from conceptlens.io.errors import InputError

pytestmark = pytest.mark.web

WIDTH, HEIGHT, SIDE = 320, 160, 64
# In pixels of the input, whose sides are scaled separately: an object on the left, one in the upper right corner.
BOXES = torch.tensor([[8.0, 24.0, 24.0, 48.0], [52.0, 2.0, 63.0, 14.0], [4.0, 20.0, 40.0, 60.0]])
LOGITS = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-0.2, -4.0]])
CELLS = ((4, 2), (1, 7), (5, 3))  # row and column of the one cell of 8 x 8 that each candidate reads


class Reader(nn.Module):
    """A trunk of cells, and three candidates that read one cell each; the second reads nothing of the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU())
        nn.init.constant_(self.trunk[0].weight, 0.01)  # pyright: ignore
        nn.init.constant_(self.trunk[0].bias, 1.0)  # pyright: ignore

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        cells = self.trunk(images).mean(1)
        read = torch.stack([cells[:, row, column] for row, column in CELLS], 1)
        own = read - read.detach()
        return LOGITS.expand(len(images), -1, -1) + torch.stack([own, -own], 2)


def read(logits: torch.Tensor) -> cl.Detections:
    return cl.Detections(BOXES.expand(len(logits), -1, -1), logits)


def result(transform: Any = None, threshold: float = 0.4, against: str | None = "bus") -> PhotoResult:
    whole = cl.Preprocess((SIDE, SIDE), (0.0,) * 3, (1.0,) * 3, crop_mode="squash")
    model = cl.Backbone(
        Reader(), "reader", ("trunk",), transform=transform or whole, output=read, class_names=("car", "bus"),
        input_size=(SIDE, SIDE),
    )  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    observation = model.observe([Image.fromarray(pixels)], titles=["street.jpg"])
    return explain_detections(observation, against=against, threshold=threshold, for_page=True)


@pytest.fixture
def opened(tabs: Tabs, tmp_path: Path) -> Iterator[Any]:
    pages: list[Page] = []

    def open_page(*results: PhotoResult, width: int = 1280) -> Page:
        file = write_page(page_content(results), tmp_path / "street.html")
        page = tabs.take(width, 900, "light")
        pages.append(page)
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-shown]")
        return page

    yield open_page
    for page in pages:
        tabs.give_back(page)


def drawn(tab: Page) -> list[list[float]]:
    """Left, top, right and bottom of every box on the screen, as shares of the photo."""
    return tab.evaluate(
        """() => {
          const frame = document.getElementById("stage").getBoundingClientRect();
          return [...document.querySelectorAll("#boxes .box")].map((one) => {
            const { left, top, right, bottom } = one.getBoundingClientRect();
            return [(left - frame.left) / frame.width, (top - frame.top) / frame.height,
                    (right - frame.left) / frame.width, (bottom - frame.top) / frame.height];
          });
        }"""
    )


@pytest.mark.parametrize("width", [1280, 390])
def test_boxes_stand_on_their_objects_and_the_peak_in_its_box(opened: Any, width: int) -> None:
    tab = opened(result(), width=width)
    assert np.allclose(drawn(tab), (BOXES / SIDE).tolist(), atol=0.006)
    for row, (box, cell) in {0: (BOXES[0], CELLS[0]), 3: (BOXES[2], CELLS[2])}.items():
        tab.locator(f"tr[data-question='{row}']").click()
        ring = tab.evaluate(
            "['left', 'top'].map((side) => parseFloat(document.getElementById('peak').style[side]) / 100)"
        )
        assert ring == pytest.approx([(cell[1] + 0.5) / 8, (cell[0] + 0.5) / 8], abs=0.001)
        assert float(box[0]) / SIDE < ring[0] < float(box[2]) / SIDE
        assert float(box[1]) / SIDE < ring[1] < float(box[3]) / SIDE
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_where_the_part_of_the_photo_is_not_known_boxes_lie_as_the_map_does(opened: Any) -> None:
    def own(photo: Image.Image) -> torch.Tensor:
        pixels = np.asarray(photo.resize((SIDE, SIDE)), np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1)

    one = result(own)
    assert one.detections is not None
    assert one.detections[0].box == pytest.approx(tuple(BOXES[0].tolist()))  # of the input: that is what is known
    tab = opened(one)
    assert tab.locator("#box-unknown").is_visible()
    assert np.allclose(drawn(tab), (BOXES / SIDE).tolist(), atol=0.006)


def test_words_say_what_was_detected_and_there_are_no_columns_of_concepts(opened: Any) -> None:
    tab = opened(result())
    assert tab.locator("#answer").inner_text() == "car (2), bus"
    assert tab.locator("#rather").inner_text() == "Detected with a score of 0.4 or more"
    assert tab.locator("#made").inner_text().startswith("What the model detects")
    heads = [one.inner_text() for one in tab.locator("thead th").all() if one.is_visible()]
    assert heads == ["What", "Where", "Score"]
    rows = [" ".join(row.inner_text().split()) for row in tab.locator("tbody tr").all()]
    assert rows[0].startswith("car score 0.95 ")
    assert rows[1].startswith("car rather than bus ")
    assert rows[2].startswith("bus score 0.73")
    scores = [(one.get_attribute("data-word"), one.inner_text()) for one in tab.locator("[data-name=score]").all()[:2]]
    assert scores == [("logit", "3"), ("lead", "3")]
    assert len(rows) == 5, "a bus is not compared with a bus"
    tab.locator("tr[data-question='1']").click()
    assert tab.locator("#caption").inner_text().startswith("car rather than bus peaks at the ")
    assert tab.locator("#word-detection").is_visible()
    assert not tab.locator("#word-presence").is_visible()


def test_a_detection_without_evidence_in_the_layer_says_so(opened: Any) -> None:
    tab = opened(result())
    tab.locator("tr[data-question='2']").click()  # its logit falls with the cell that it reads
    assert tab.locator("#caption").inner_text() == "bus has no evidence in layer trunk; another layer may have it."
    assert not tab.locator("#peak").is_visible()


def test_labels_stay_on_the_photo_and_a_click_on_a_box_chooses_it(opened: Any) -> None:
    tab = opened(result())
    stage = tab.locator("#stage").bounding_box()
    assert stage is not None

    def click(x: float, y: float) -> str:
        tab.mouse.click(stage["x"] + x * stage["width"], stage["y"] + y * stage["height"])
        label = tab.locator(".box.chosen span")
        place = label.bounding_box()
        assert place is not None
        assert stage["x"] - 1 <= place["x"]
        assert place["x"] + place["width"] <= stage["x"] + stage["width"] + 1
        assert place["y"] >= stage["y"] - 1
        return label.inner_text()

    assert click(0.9, 0.1) == "bus 0.73"
    assert click(0.2, 0.5) == "car 0.95", "the smaller of two boxes"
    assert click(0.2, 0.5) == "car 0.45", "then the larger one"
    assert click(0.5, 0.9) == "car 0.45"
    assert tab.evaluate("window.conceptlens.state.question") == 3


def test_photos_in_which_nothing_was_detected_are_named(opened: Any) -> None:
    one = result()
    empty = replace(result(threshold=0.99), image_info=replace(one.image_info, name="empty.jpg"))
    tab = opened(one, empty)
    words = tab.locator("#undetected").inner_text()
    assert words == "empty.jpg: nothing is detected with a score of 0.99 or more; the highest is car 0.95"
    with pytest.raises(InputError, match=r"empty\.jpg: nothing is detected"):
        page_content([empty])
    assert not opened(one).locator("#undetected").is_visible()
