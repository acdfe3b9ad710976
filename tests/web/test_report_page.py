from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from browser_tabs import Scheme, Tabs
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, expect

import conceptlens as cl
from branches import PLAIN, branch_of
from conceptlens import render
from conceptlens.concepts.vocabulary import parse_concepts
from conceptlens.explainer.page_content import page_content
from conceptlens.explainer.photo_result import PhotoResult
from conceptlens.explainer.photo_run import ExplainOptions, explain_photos
from conceptlens.explainer.report_page import embed, page_html, write_page
from conceptlens.io.errors import InputError

pytestmark = pytest.mark.web

WIDTH, HEIGHT = 240, 160
BOX = [0.2, 0.05, 0.8, 0.95]
EVIL = """</script><script>alert(1)</script><img src=x onerror="document.title='broken'"> "quoted" & 'single'"""
Grid = dict[str, Any]
Open = Callable[..., Page]


def bump(x: float, y: float, width: float = 0.15, cells: int = 7) -> np.ndarray:
    places = (np.arange(cells) + 0.5) / cells
    return np.exp(-((places[None] - x) ** 2 + (places[:, None] - y) ** 2) / (2 * width**2))


def grid(values: np.ndarray) -> Grid:
    return {"height": values.shape[0], "width": values.shape[1], "values": values.flatten().tolist()}


def photo(colour: str = "tan") -> str:
    image = Image.new("RGB", (WIDTH, HEIGHT), colour)
    ImageDraw.Draw(image).ellipse((60, 30, 180, 140), fill="darkolivegreen")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def a_class(index: int, name: str, logit: float, probability: float) -> dict[str, Any]:
    short = name.split(",")[0]
    return {"index": index, "name": name, "short_name": short, "logit": logit, "probability": probability}


def a_question(kind: str, label: str, values: np.ndarray, score: float, **more: Any) -> dict[str, Any]:
    row, column = np.unravel_index(values.argmax(), values.shape)
    x, y = (column + 0.5) / values.shape[1], (row + 0.5) / values.shape[0]
    return {
        "kind": kind,
        "label": label,
        "type": None,
        "score": score,
        "z_score": None,
        "contribution": None,
        "contribution_range": None,
        "peak": [BOX[0] + x * (BOX[2] - BOX[0]), BOX[1] + y * (BOX[3] - BOX[1])],
        "area": 0.08,
        "signed": bool((values < 0).any()),
        "map": grid(values),
        **more,
    }


TARGET = 3 * bump(0.4, 0.4, 0.25)
REFERENCES = [2 * bump(0.6, 0.5, 0.2) - 0.1, bump(0.2, 0.8)]
WEIGHTS = [0.75, 0.25]


def finer(gamma: float, weights: list[float]) -> np.ndarray:
    """Finer-CAM's map, as the contract of the report says it."""
    return np.maximum(0, TARGET - gamma * sum(w * r for w, r in zip(weights, REFERENCES, strict=True)))


def an_image(name: str = "cat.png", colour: str = "tan", extra_label: str | None = None) -> dict[str, Any]:
    classes = [a_class(1, "tabby", 9.0, 0.6), a_class(2, "tiger cat", 8.0, 0.3), a_class(3, "lynx", 6.0, 0.0004)]
    questions = [
        a_question("class", "tabby", np.maximum(TARGET, 0), 9.0),
        a_question("contrast", "tabby against tiger cat, lynx", finer(0.6, WEIGHTS), 9.0 - 0.6 * (0.75 * 8 + 0.25 * 6)),
        a_question(
            "concept",
            "whiskers",
            0.04 * bump(0.2, 0.8),
            0.21,
            type="part",
            z_score=3.14,
            contribution=0.184,
            presence=0.87,
            implied=0.6,
            base_rate=0.02,
        ),
        a_question("concept", "water", 0.01 * bump(0.8, 0.2), 0.05, type="thing", z_score=-0.6, contribution=-0.092),
        a_question("concept", "warmth", 0.02 * (bump(0.3, 0.3) - bump(0.7, 0.7)), 0.02),
        a_question("concept", "nothing", np.zeros((7, 7)), -0.01, area=0.0, z_score=-1.0, contribution=0.0),
    ]
    if extra_label is not None:
        questions.append(a_question("concept", extra_label, 0.02 * bump(0.5, 0.5), 0.1, type=extra_label))
    return {
        "name": name,
        "photo": photo(colour),
        "width": WIDTH,
        "height": HEIGHT,
        "box": BOX,
        "box_known": True,
        "model": "timm:tf_efficientnet_lite0",
        "layer": "blocks.6",
        "target": classes[0],
        "against": None,
        "predicted": classes[0],
        "answered": True,
        "other_answer": "",
        "none_likely": False,
        "predictions": classes,
        "margin": None,
        "questions": questions,
        "contrast": {
            "target": "tabby",
            "gamma": 0.6,
            "references": [
                {**{k: one[k] for k in ("name", "short_name", "index")}, "score": one["logit"], "weight": weight}
                for one, weight in zip(classes[1:], WEIGHTS, strict=True)
            ],
            "maps": {"target": grid(TARGET), "references": [grid(r) for r in REFERENCES]},
        },
        "settings": {"method": "ce_fam", "top": 8},
        "command": f"conceptlens explain {name} --out report.html",
    }


def a_report(*images: dict[str, Any], title: str = "A report") -> dict[str, Any]:
    return {
        "schema": "conceptlens.report/3",
        "title": title,
        "created": "2025-11-20T14:05:00+00:00",
        "versions": {"conceptlens": "0.1.0", "torch": "2.13.0"},
        "answered_otherwise": "",
        "images": list(images) or [an_image()],
    }


@pytest.fixture
def open_report(browser: Browser, tabs: Tabs, tmp_path: Path) -> Iterator[Open]:
    """Open a report, in a tab of its own where it is told so; at the end no request, message or error came from it."""
    taken: list[Page] = []
    contexts, complaints = [], []

    def of_its_own(width: int, height: int, scheme: Scheme, options: dict[str, Any]) -> Page:
        size: Any = {"width": width, "height": height}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme, **options))
        return contexts[-1].new_page()

    def opened(
        data: dict[str, Any] | None = None,
        width: int = 1280,
        height: int = 900,
        scheme: Scheme = "light",
        own: dict[str, Any] | None = None,
    ) -> Page:
        address = write_page(data or a_report(), tmp_path / "report.html").as_uri()
        tab = tabs.take(width, height, scheme) if own is None else of_its_own(width, height, scheme, own)
        taken.extend([tab] if own is None else [])

        def gate(route: Any) -> None:
            if route.request.url == address:
                route.continue_()
            else:
                complaints.append(f"request {route.request.url}")
                route.abort()

        (tab if own is None else tab.context).route(re.compile(r"^(?!data:|blob:)"), gate)
        for event, noted in watched.items():
            tab.on(event, noted)
        tab.goto(address)
        shown(tab)
        return tab

    watched: dict[Any, Callable[[Any], None]] = {
        "console": lambda message: complaints.append(f"console {message.type}: {message.text}"),
        "pageerror": lambda error: complaints.append(f"error {error}"),
        "dialog": lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss())[1],
    }
    yield opened
    for context in contexts:
        context.close()
    for tab in taken:
        for event, noted in watched.items():
            tab.remove_listener(event, noted)
        tabs.give_back(tab)
    assert complaints == []


def shown(tab: Page, image: int = 0) -> None:
    tab.locator(f"html[data-shown='{image}']").wait_for()


def pixels(tab: Page, selector: str = "#overlay") -> np.ndarray:
    flat, width, height = tab.evaluate(
        """(selector) => {
          const canvas = document.querySelector(selector);
          const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", {willReadFrequently: true});
          copy.drawImage(canvas, 0, 0);
          const {data} = copy.getImageData(0, 0, canvas.width, canvas.height);
          const text = [];
          for (let i = 0; i < data.length; i += 32768) text.push(String.fromCharCode(...data.subarray(i, i + 32768)));
          return [btoa(text.join("")), canvas.width, canvas.height];
        }""",
        selector,
    )
    return np.frombuffer(base64.b64decode(flat), np.uint8).astype(int).reshape(height, width, 4)


def computed(tab: Page) -> np.ndarray:
    values = tab.evaluate("window.conceptlens.grid()")
    return np.array(values["values"]).reshape(values["height"], values["width"])


def choose(tab: Page, question: int) -> None:
    tab.locator(f"tr[data-question='{question}']").click()


def slide(tab: Page, selector: str, value: float) -> None:
    tab.locator(selector).fill(str(value))


def test_the_page_opens_without_request_error_or_warning(open_report: Open) -> None:
    tab = open_report()
    assert tab.title() == "A report"
    assert tab.locator("#answer").inner_text() == "tabby"
    assert [row.split("\n")[-1] for row in tab.locator("#predictions li").all_inner_texts()] == ["60%", "30%", "<0.1%"]


def test_the_page_paints_the_colours_of_render(open_report: Open) -> None:
    tab = open_report()
    for question in (0, 2, 4):
        choose(tab, question)
        values = np.array(an_image()["questions"][question]["map"]["values"]).reshape(7, 7)
        scale = render.scale_of([values], signed=question == 4)
        left, top, right, bottom = 48, 8, 192, 152
        expected = render.colour(render.upsample(values, bottom - top, right - left), scale).astype(int)
        painted = pixels(tab)[top:bottom, left:right]
        assert np.abs(painted[..., 3] - 0.6 * expected[..., 3]).max() <= 2
        seen = painted[..., 3:] / 255 * painted[..., :3]  # what the eye gets, over black
        assert np.abs(seen - 0.6 * expected[..., 3:] / 255 * expected[..., :3]).max() <= 3


def test_choosing_a_row_by_click_changes_the_map(open_report: Open) -> None:
    tab = open_report()
    before = pixels(tab)
    choose(tab, 2)
    assert (pixels(tab) != before).any()
    assert tab.locator("#caption").inner_text().startswith("whiskers peaks at the lower left;")
    assert tab.locator("tr.chosen").get_attribute("data-question") == "2"


def test_choosing_a_row_by_keyboard_changes_the_map(open_report: Open) -> None:
    tab = open_report()
    tab.locator("tr[data-question='0'] input").focus()
    maps = [pixels(tab)]
    for question in (1, 2, 3):
        tab.keyboard.press("ArrowDown")
        assert tab.evaluate("window.conceptlens.state.question") == question
        maps.append(pixels(tab))
        assert (maps[-1] != maps[-2]).any()
    tab.keyboard.press("ArrowUp")
    assert np.array_equal(pixels(tab), maps[2])


def test_every_control_is_reached_by_tab(open_report: Open) -> None:
    tab = open_report()
    choose(tab, 1)
    tab.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    reached = set()
    for _ in range(24):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id || document.activeElement.name"))
    assert {"theme", "stage", "gamma", "reset", "opacity", "scale", "grid", "question", "copy", "download"} <= reached


def test_a_table_row_says_what_where_and_how_much(open_report: Open) -> None:
    tab = open_report()
    cells = tab.locator("tr[data-question='2'] td").all_inner_texts()
    assert [" ".join(cell.split()) for cell in cells] == [
        "whiskers part",
        "lower left 8.0% of the photo",
        "87% 0.21",
        "+3.1 σ",
        "+18%",
    ]
    negative = tab.locator("tr[data-question='3']")
    assert "−9.2%" in negative.inner_text()
    assert negative.locator(".signed .against").count() == 1
    assert "nowhere" in tab.locator("tr[data-question='5']").inner_text()


@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_the_gamma_slider_gives_the_map_of_the_formula(open_report: Open, gamma: float) -> None:
    tab = open_report()
    choose(tab, 1)
    assert np.allclose(computed(tab), finer(0.6, WEIGHTS))
    before = pixels(tab)
    slide(tab, "#gamma", gamma)
    assert np.allclose(computed(tab), finer(gamma, WEIGHTS))
    assert (pixels(tab) != before).any() == (gamma != 0.6)
    score = tab.locator("tr[data-question='1'] [data-name=score]").inner_text()
    assert score == render.number(9.0 - gamma * (0.75 * 8 + 0.25 * 6))
    words = tab.locator("tr[data-question='1']").inner_text()
    assert ("the class alone: gamma 0" in words) == (gamma == 0)
    assert ("against" in words) == (gamma > 0)


def test_a_peak_on_the_border_of_two_thirds_has_one_name(open_report: Open) -> None:
    box = [5 / 24, 0.0625, 19 / 24, 0.9375]  # the crop of a photo of 3 x 2: its second of 7 columns lies at 1/3
    image = {**an_image(), "box": box}
    image["questions"][2]["peak"] = [round(1 / 3, 4), 0.5]
    image["contrast"]["maps"]["target"] = grid(bump(1.5 / 7, 0.5))
    tab = open_report(a_report(image))
    choose(tab, 1)
    slide(tab, "#gamma", 0.0)
    assert "peaks at the middle left;" in tab.locator("#caption").inner_text()
    choose(tab, 2)
    assert "peaks at the middle left;" in tab.locator("#caption").inner_text()


def test_the_reference_chooser_renormalises_the_weights(open_report: Open) -> None:
    tab = open_report()
    choose(tab, 1)
    boxes = tab.locator("#reference-list input")
    boxes.nth(0).uncheck()
    assert np.allclose(computed(tab), finer(0.6, [0.0, 1.0]))
    assert "less 0.60 × that for lynx" in tab.locator("#formula").inner_text()
    boxes.nth(1).uncheck()
    assert np.allclose(computed(tab), finer(0.0, WEIGHTS))
    assert "nothing subtracted" in tab.locator("#formula").inner_text()
    tab.locator("#reset").click()
    assert np.allclose(computed(tab), finer(0.6, WEIGHTS))


def test_the_contrast_panel_is_there_for_contrasts_only(open_report: Open) -> None:
    tab = open_report()
    assert not tab.locator("#contrast").is_visible()
    choose(tab, 1)
    assert tab.locator("#contrast").is_visible()
    choose(tab, 2)
    assert not tab.locator("#contrast").is_visible()


def test_a_contrast_without_parts_shows_the_map_it_was_given(open_report: Open) -> None:
    tab = open_report(a_report({**an_image(), "contrast": None}))
    choose(tab, 1)
    assert not tab.locator("#contrast").is_visible()
    assert np.allclose(computed(tab), finer(0.6, WEIGHTS))


def test_opacity_zero_shows_the_bare_photo(open_report: Open) -> None:
    tab = open_report()
    assert pixels(tab)[..., 3].any()
    assert pixels(tab)[2, 2, 3] == round(255 * render.DIM * 0.6)
    slide(tab, "#opacity", 0)
    assert not pixels(tab)[..., 3].any()
    assert not tab.locator("#peak").is_visible()


def test_the_scale_is_stated_and_can_be_shared(open_report: Open) -> None:
    tab = open_report()
    choose(tab, 3)
    own = pixels(tab)
    assert tab.locator("#high").inner_text() == render.number(0.01 * bump(0.8, 0.2).max())
    tab.locator("[name=scale][value=shared]").check()
    assert tab.locator("#high").inner_text() == render.number(0.04 * bump(0.2, 0.8).max())
    assert "same scale for 3 concepts" in tab.locator("#scale-words").inner_text()
    assert pixels(tab)[..., 3].sum() < own[..., 3].sum()


def test_competing_regions_have_no_scale_in_common(open_report: Open) -> None:
    image = an_image()
    for question in image["questions"][2:4]:
        question["regions"] = "competing"
    tab = open_report(a_report(image))
    own, shared = (tab.locator(f"[name=scale][value={name}]") for name in ("own", "shared"))
    shared.check()
    choose(tab, 2)
    assert shared.is_disabled()
    assert own.is_checked()
    assert "competing regions have none in common" in tab.locator("#scale-words").inner_text()
    assert tab.locator("#high").inner_text() == render.number(0.04 * bump(0.2, 0.8).max())
    choose(tab, 3)
    assert tab.locator("#high").inner_text() == render.number(0.01 * bump(0.8, 0.2).max())
    choose(tab, 0)
    assert shared.is_enabled()
    assert shared.is_checked()
    assert tab.locator("#word-competing").is_visible()


def test_the_words_say_that_the_models_own_pair_read_the_concepts(open_report: Open) -> None:
    tab = open_report()
    assert "Texts are encoded by the model itself" in tab.locator("#concept-words").inner_text()
    assert not tab.locator("#word-competing").is_visible()


@pytest.fixture(scope="module")
def branched() -> tuple[str, list[PhotoResult]]:
    """A trained branch's name, and what it finds: with its own regions, and with competing ones."""
    model = cl.load_model()
    translator = branch_of(model, PLAIN)
    settings: dict[str, Any] = {"concepts": parse_concepts("cat, wheel"), "branch": translator, "for_page": True}
    cases = [ExplainOptions(**settings), ExplainOptions(**settings, regions="competing")]
    cat = Path(skimage.__file__).parent / "data" / "chelsea.png"
    found = [result for options in cases for result in explain_photos(model, [cat], options)]
    return translator.name, [one for one in found if isinstance(one, PhotoResult)]


def test_a_branch_is_shown_with_who_read_the_words_and_the_layer_of_each_concept(
    open_report: Open, branched: tuple[str, list[PhotoResult]]
) -> None:
    name, (official, competing) = branched
    tab = open_report(page_content([official, competing]))
    assert official.concepts is not None
    assert competing.concepts is not None
    words = tab.locator("#concept-words")
    assert f"encoded by the {name}, trained" in words.inner_text()
    assert "stand-in" not in words.inner_text()
    first = 2  # after the class and its contrast
    for q, (label, layer) in enumerate(zip(("cat", "wheel"), official.concepts.layers[0], strict=True)):
        assert f"· {layer}" in tab.locator(f"tr[data-question='{first + q}'] .what").inner_text()
        choose(tab, first + q)
        assert tab.locator("#caption").inner_text().startswith(label)
        assert f"Its map is from layer {layer}." in tab.locator("#caption").inner_text()
        assert np.allclose(computed(tab), official.concepts.maps[0, q].numpy(), rtol=1e-4, atol=1e-6)

    tab.locator("[name=photo][value='1']").check()
    shown(tab, 1)
    assert name in words.inner_text()
    assert "stand-in" in words.inner_text()  # competing regions take both pairs
    choose(tab, first)
    assert "competes with everyday words" in tab.locator("#caption").inner_text()
    assert tab.locator("[name=scale][value=shared]").is_disabled()
    assert computed(tab).shape == (28, 28)


def test_raw_cells_are_as_coarse_as_the_layer(open_report: Open) -> None:
    tab = open_report()
    tab.locator("[name=grid][value=cells]").check()
    inside = pixels(tab)[8:152, 48:192]
    assert 5 < len(np.unique(inside.reshape(-1, 4), axis=0)) <= 49


def test_pointing_at_the_photo_reads_out_the_raw_value(open_report: Open) -> None:
    tab = open_report()
    stage = tab.locator("#stage").bounding_box()
    assert stage is not None
    x, y = BOX[0] + 2.5 / 7 * (BOX[2] - BOX[0]), BOX[1] + 4.5 / 7 * (BOX[3] - BOX[1])
    tab.mouse.move(stage["x"] + x * stage["width"], stage["y"] + y * stage["height"])
    expected = render.number(TARGET[4, 2])
    assert tab.locator("#readout").inner_text() == f"Value {expected} at row 5, column 3 of 7 × 7 cells"
    tab.mouse.move(stage["x"] + 2, stage["y"] + 2)  # beside what the model saw
    assert "Point at the photo" in tab.locator("#readout").inner_text()


def test_arrow_keys_on_the_photo_read_out_cells(open_report: Open) -> None:
    tab = open_report()
    tab.locator("#stage").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        tab.keyboard.press(key)
    assert "row 3, column 5 of" in tab.locator("#readout").inner_text()
    tab.keyboard.press("Escape")
    assert not tab.locator("#cell").is_visible()


def test_labels_are_text_whatever_they_hold(open_report: Open) -> None:
    image = an_image(name=EVIL, extra_label=EVIL)
    image["target"] = image["predictions"][0] = {**a_class(1, EVIL, 9.0, 0.6), "short_name": EVIL}
    image["settings"] = {EVIL: EVIL}
    image["contrast"]["target"] = image["contrast"]["references"][0]["short_name"] = EVIL
    tab = open_report(a_report(image, title=EVIL))
    choose(tab, 1)
    choose(tab, 6)
    assert tab.title() == " ".join(EVIL.split())
    assert tab.locator("#answer").text_content() == EVIL
    assert tab.locator("tr[data-question='6'] b").text_content() == EVIL
    assert tab.locator("img[src=x]").count() == 0
    assert tab.locator("script").count() == 2


def is_dark(tab: Page) -> bool:
    return tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]") < 80


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_system_and_remembers_another_choice(open_report: Open, scheme: Any) -> None:
    tab = open_report(scheme=scheme)
    assert is_dark(tab) == (scheme == "dark")
    tab.locator("#theme").click()
    assert is_dark(tab) == (scheme == "light")
    tab.reload()
    shown(tab)
    assert is_dark(tab) == (scheme == "light")


def test_a_choice_is_kept_in_its_tab_where_storage_is_refused_or_late(open_report: Open) -> None:
    tab = open_report(own={})
    tab.add_init_script("Storage.prototype.setItem = () => { throw new DOMException('no', 'SecurityError'); };")
    tab.reload()
    shown(tab)
    tab.locator("#theme").click()
    tab.reload()
    shown(tab)
    assert tab.evaluate("localStorage.length") == 0
    assert is_dark(tab)


def test_a_choice_holds_for_other_tabs_once_it_is_stored(open_report: Open) -> None:
    tab = open_report(own={})
    tab.locator("#theme").click()
    other = tab.context.new_page()
    for _ in range(200):  # browsers write their storage some time later
        other.goto(tab.url)
        if is_dark(other):
            break
        other.wait_for_timeout(50)
    assert is_dark(other)


@pytest.mark.parametrize("width", [360, 1179])
def test_no_width_needs_horizontal_scrolling(open_report: Open, width: int) -> None:
    long = "a very long name of a concept, Donaudampfschifffahrtsgesellschaftskapitän included"
    tab = open_report(a_report(*[an_image(f"{i} {long}.png", extra_label=long) for i in range(3)]), width=width)
    for question in (1, 2, 6):
        choose(tab, question)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_every_number_of_a_row_is_there_on_a_phone(open_report: Open) -> None:
    tab = open_report(width=360, height=740)
    row = tab.locator("tr[data-question='2']")
    for text in ("whiskers", "87%", "0.21", "+3.1 σ", "+18%", "8.0% of the photo"):
        assert row.get_by_text(text).is_visible()


def test_the_command_is_copied(open_report: Open) -> None:
    tab = open_report(own={"permissions": ["clipboard-read", "clipboard-write"]})
    tab.locator("#copy").click()
    expect(tab.locator("#copy")).to_have_text("Copied")
    assert tab.evaluate("navigator.clipboard.readText()") == "conceptlens explain cat.png --out report.html"


def test_the_numbers_can_be_downloaded(open_report: Open) -> None:
    tab = open_report(own={"accept_downloads": True})
    with tab.expect_download() as download:
        tab.locator("#download").click()
    numbers = json.loads(download.value.path().read_text(encoding="utf-8"))
    expected = a_report()
    del expected["images"][0]["photo"]
    assert numbers == expected


def test_several_images_are_chosen_from_a_strip(open_report: Open) -> None:
    other = an_image("dog.png", "navy")
    other["questions"] = [a_question("class", "beagle", bump(0.9, 0.9), 4.0)]
    other["target"], other["contrast"] = a_class(7, "beagle", 4.0, 0.5), None
    other["against"] = a_class(8, "basset", 3.0, 0.2)
    other["differences"] = "Photos of beagle, not of basset, usually show: a <b>; the other way round: nothing known"
    tab = open_report(a_report(an_image(), other))
    choose(tab, 2)
    before = pixels(tab)
    tab.locator("#photo-list label").nth(1).click()
    shown(tab, 1)
    assert tab.locator("#answer").inner_text() == "beagle"
    assert tab.locator("#rather").inner_text() == "50%, rather than basset (20%)"
    assert tab.locator("#differences").inner_text() == f"{other['differences']}."
    assert tab.locator("tbody tr").count() == 1
    assert (pixels(tab) != before).any()
    tab.locator("#photo-list input").nth(1).focus()
    tab.keyboard.press("ArrowLeft")
    shown(tab, 0)
    assert tab.locator("#answer").inner_text() == "tabby"
    assert not tab.locator("#differences").is_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_photo_answered_with_neither_class_is_grey_and_says_what_the_answer_is(open_report: Open, width: int) -> None:
    panda = an_image("panda.png", "grey")
    tabby, tiger, _ = panda["predictions"]
    words = "The model's answer is giant panda (94%), neither of the two"
    panda.update(
        target={**tabby, "probability": 0.002},
        against={**tiger, "probability": 0.0004},
        compared=[{**tiger, "probability": 0.0004}],
        predicted=a_class(388, "giant panda, panda", 11.0, 0.94),
        answered=False,
        other_answer=words,
    )
    count = "1 of 2 photos is answered with neither of the two"
    tab = open_report({**a_report(an_image(), panda), "answered_otherwise": count}, width=width)
    assert tab.locator("#answered-otherwise").inner_text() == f"{count}; they are grey here."
    asked, other = (tab.locator("#photo-list label").nth(i) for i in (0, 1))
    assert [one.locator("img").evaluate("(i) => getComputedStyle(i).filter") for one in (asked, other)] == [
        "none",
        "grayscale(1)",
    ]
    assert other.locator("small").inner_text() == "giant panda"
    other.click()
    shown(tab, 1)
    assert tab.locator("#answer").inner_text() == words
    rather = tab.locator("#rather").inner_text()
    assert rather == "Shown is what speaks for tabby (0.2%), rather than tiger cat (<0.1%)"
    asked.click()
    shown(tab, 0)
    assert tab.locator("#answer").inner_text() == "tabby"
    assert not tab.locator("#rather").is_visible()


def test_a_map_of_ones_own_without_model_and_class_is_shown_without_empty_words(open_report: Open) -> None:
    mine = {
        **an_image(),
        "target": None,
        "predictions": [],
        "contrast": None,
        "command": "",
        "box_known": False,
        "questions": [{**a_question("custom", "mine", bump(0.5, 0.5), 1.0), "box": [0.0, 0.0, 1.0, 1.0]}],
    }
    tab = open_report(a_report(mine))
    assert tab.locator("#answer").inner_text() == "cat.png"
    assert "a map of your own" in tab.locator("tr[data-question='0']").inner_text()
    assert tab.locator("#box-unknown").is_visible()
    for hidden in ("#command-line", "#word-concept", "#word-z-score", "#word-contribution", "#predictions"):
        assert not tab.locator(hidden).is_visible()
    assert pixels(tab)[80, 120, 3] > 100  # the map's middle is the photo's middle


@pytest.mark.parametrize("width", [1280, 390])
def test_a_word_that_the_model_does_not_know_is_named_and_cannot_be_chosen(open_report: Open, width: int) -> None:
    image = an_image()
    unknown = a_question("concept", "blorfin", np.zeros((7, 7)), 0.0, type="object", known=False)
    unknown.update(score=None, peak=None, area=None)
    image["questions"] = [unknown, *image["questions"]]
    tab = open_report(a_report(image), width=width)
    row = tab.locator("tr[data-question='0']")
    assert row.locator(".what b").inner_text() == "blorfin"
    assert row.locator(".where").inner_text() == "not known to this model"
    assert row.locator("td").count() == 2
    assert row.locator("input").is_disabled()
    assert tab.evaluate("window.conceptlens.state.question") == 1
    before = pixels(tab)
    row.click(force=True)
    assert tab.evaluate("window.conceptlens.state.question") == 1
    assert (pixels(tab) == before).all()
    choose(tab, 3)  # whiskers
    assert (pixels(tab) != before).any()
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_one_image_has_no_strip(open_report: Open) -> None:
    assert not open_report().locator("#photos").is_visible()


def test_the_page_prints(open_report: Open) -> None:
    tab = open_report(scheme="dark")
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.locator(".controls").is_visible()
    assert len(tab.pdf()) > 10_000


def test_the_policy_allows_nothing_from_outside(open_report: Open) -> None:
    text = page_html(a_report())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1].replace("&#39;", "'")
    assert "unsafe" not in policy[1]
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", text)


def test_data_in_a_script_element_cannot_end_it() -> None:
    text = embed({"label": EVIL, "line": "a\u2028b"})
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text) == {"label": EVIL, "line": "a\u2028b"}


def test_the_file_is_whole_or_not_there(tmp_path: Path) -> None:
    place = tmp_path / "report.html"
    place.write_text("before")
    broken = a_report()
    broken["images"][0]["questions"][0]["score"] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        write_page(broken, place)
    assert place.read_text() == "before"
    assert write_page(a_report(), place) == place
    assert place.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert list(tmp_path.iterdir()) == [place]
    assert write_page(a_report(), tmp_path / "new" / "report.html").is_file()
    with pytest.raises(InputError, match="cannot write"):
        write_page(a_report(), place / "report.html")


COUNTS = {2: 2.0, 3: -0.5, 4: 0.75, 5: 0.25}


def weighed(unnamed: float = 1.0, **margin: float) -> dict[str, Any]:
    """An image whose contributions add up to a margin of logits."""
    image = an_image()
    for index, value in COUNTS.items():
        image["questions"][index]["contribution"] = value
    image["questions"][2]["contribution_range"] = [1.25, 2.5]
    image["questions"][3]["contribution_range"] = [-1.0, 0.125]
    named = sum(COUNTS.values())
    parts = {"named": named, "discovered": 0.0, "unnamed": unnamed, "unplaced": 0.0, "residual": 0.0}
    rest = {"over": "all other classes", "unit": "logits"}
    image["margin"] = {"value": named + unnamed, **rest, **parts, **margin}
    return image


def pieces(tab: Page) -> list[tuple[str, float, float]]:
    """The title of every piece of the bar, and where it begins and ends, from the left."""
    found = tab.evaluate("""() => [...document.querySelectorAll('#margin-bar > *')].map((one) => {
      const {left, right} = one.getBoundingClientRect();
      return [one.className.includes('zero') ? 'zero' : one.title, left, right];
    })""")
    return [(title.replace("\u2212", "-"), left, right) for title, left, right in found]


@pytest.mark.parametrize(("width", "unnamed"), [(360, -1.5), (1280, 1.0)])
def test_the_margin_bar_is_as_long_as_what_counts(open_report: Open, width: int, unnamed: float) -> None:
    tab = open_report(a_report(weighed(unnamed)), width=width)
    found = pieces(tab)
    values = {**{an_image()["questions"][i]["label"]: v for i, v in COUNTS.items()}, "no name": unnamed}
    spoken = {f"{name} {value:+.2f}": value for name, value in values.items()}
    assert {title for title, _, _ in found} == {*spoken, "zero"}
    whole = sum(abs(value) for value in values.values())
    bar = tab.locator("#margin-bar").bounding_box()
    assert bar is not None
    for (title, left, right), (_, after, _) in zip(found, [*found[1:], ("", found[-1][2], 0.0)], strict=True):
        assert right == pytest.approx(after, abs=0.5)  # one piece begins where the one before ends
        if title != "zero":
            assert right - left == pytest.approx(abs(spoken[title]) / whole * bar["width"], abs=2.5)
    (zero,) = [left for title, left, _ in found if title == "zero"]
    for title, left, right in found:
        if title != "zero":
            assert (right <= zero + 0.5) == (spoken[title] < 0), title
            assert (left >= zero) == (spoken[title] > 0), title
    above = [spoken[title] for title, left, _ in found if left > zero and "no name" not in title]
    assert above == sorted(above, reverse=True)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


LEADS = "tabby leads all other classes by 3.50 (margin of the logits). Named concepts: +2.50, 71% of it"
TRAILS = "tabby trails all other classes by 1.50 (margin of the logits). Named concepts: +2.50; without a name: −4.00."
MARGINS: dict[str, tuple[dict[str, Any], str]] = {
    "all in one": ({}, f"{LEADS}; without a name: +1.00."),
    "behind": ({"unnamed": -4.0}, TRAILS),
    "more than all": ({"unnamed": -1.0}, "Named concepts: +2.50, 100% of it; without a name: −1.00."),
    "no cell": ({"unplaced": 0.4}, "without a name: +1.00 (+0.40 of this lies in no part of the photo"),
    "residual": ({"residual": 0.02}, "The sum misses +0.02."),
    "discovered": (
        {"value": 3.5, "discovered": 0.5, "unnamed": 0.5},
        f"{LEADS}; discovered ones: +0.50; without a name: +0.50.",
    ),
}  # fmt: skip


def test_a_sentence_says_what_the_margin_consists_of(open_report: Open) -> None:
    tab = open_report(a_report(*[{**weighed(**parts), "name": name} for name, (parts, _) in MARGINS.items()]))
    for index, (parts, sentence) in enumerate(MARGINS.values()):
        tab.locator(f"[name=photo][value='{index}']").check()
        shown(tab, index)
        words = tab.locator("#margin-words").inner_text()
        assert sentence in words
        assert ("sum misses" in words) == ("residual" in parts)


def test_the_other_class_of_a_comparison_is_named(open_report: Open) -> None:
    image = weighed()
    image["against"] = image["predictions"][1]
    image["compared"] = [image["against"]]
    image["margin"]["over"] = image["against"]["short_name"]
    tab = open_report(a_report(image))
    assert tab.locator("#margin-words").inner_text().startswith("tabby leads tiger cat by 3.50")
    assert "evidence for tabby over tiger cat" in tab.locator("#contribution-words").inner_text()
    spoken = tab.locator("#margin-bar").get_attribute("aria-label")
    assert spoken == "whiskers +2.00, warmth +0.75, water −0.50, nothing +0.25 and no name +1.00: together +3.50"


def test_a_quantity_is_shown_without_shares(open_report: Open) -> None:
    image = weighed(over=None, unit="units of the output")  # pyright: ignore[reportArgumentType]
    age = {"index": 0, "name": "age", "short_name": "age", "logit": 41.5, "probability": None}
    image |= {"task": "regression", "score_name": "value", "target": age, "predicted": age, "predictions": [age]}
    image |= {"against": None, "compared": [], "answered": None, "contrast": None}
    tab = open_report(a_report(image))
    assert tab.locator("#predictions").inner_text().split() == ["age", "41.5"]
    assert not tab.locator("#predictions .rail").is_visible()
    assert tab.locator("#predictions li").get_attribute("title") == "age (class 0): value 41.5"
    assert tab.locator("#margin-words").inner_text().startswith("age: +3.50 (units of the output). Named concepts: ")
    words = tab.locator("#contribution-words").inner_text()
    assert words.startswith(
        "What raises age, of all that lies where the concept is, in units of age, as the model puts"
    )
    assert "add up to age itself. Negative: what lies there lowers it." in words
    assert "blue, to the right, raises age; red, to the left, lowers it" in tab.locator("#table-words").inner_text()


def test_a_label_has_no_rivals(open_report: Open) -> None:
    image = weighed(over=None, unit="log-odds")  # pyright: ignore[reportArgumentType]
    image |= {"task": "multi_label", "against": None, "compared": []}
    tab = open_report(a_report(image))
    assert tab.locator("#margin-words").inner_text().startswith("tabby: +3.50 (log-odds). Named concepts: ")
    words = tab.locator("#contribution-words").inner_text()
    assert words.startswith("The evidence for tabby that lies where the concept is, in units of the log-odds.")
    assert "add up to the log-odds of tabby. Negative: what lies there speaks against it." in words


def test_a_piece_of_the_margin_chooses_its_row(open_report: Open) -> None:
    tab = open_report(a_report(weighed()))
    before = pixels(tab)
    tab.locator("#margin-bar button[title^='whiskers']").click()
    assert tab.evaluate("window.conceptlens.state.question") == 2
    assert tab.locator("tr.chosen").get_attribute("data-question") == "2"
    assert (pixels(tab) != before).any()
    tab.locator("#margin-bar button[title^='water']").click()
    assert tab.locator("tr.chosen").get_attribute("data-question") == "3"
    assert tab.locator("#margin-bar button[title^='no name']").is_disabled()


def test_logits_and_ranges_stand_in_the_rows(open_report: Open) -> None:
    tab = open_report(a_report(weighed()))
    assert tab.locator("tr[data-question='2'] .much").inner_text().split("\n")[-2:] == ["+2.00", "+1.25 to +2.50"]
    assert "−1.00 to +0.13" in tab.locator("tr[data-question='3'] .much").inner_text()
    assert tab.locator("tr[data-question='4'] .much").inner_text().strip() == "+0.75"
    assert "%" not in tab.locator("tr[data-question='2'] .much").inner_text()


def test_what_a_random_word_would_get_stands_below_the_table(open_report: Open) -> None:
    masked = {**an_image("masked.png"), "random_level": 0.3}
    masked["questions"][2]["contribution_above_random"] = -0.12
    small = {**weighed(), "random_level": 0.002, "name": "small.png"}
    tab = open_report(a_report({**weighed(), "random_level": 0.125}, small, masked, weighed()), width=360)
    words = tab.locator("#random-words")
    assert words.inner_text().startswith("A word drawn at random would get about 0.13 here")
    tab.locator("[name=photo][value='1']").check()
    shown(tab, 1)
    assert "would get under 0.01 here" in words.inner_text()
    tab.locator("[name=photo][value='2']").check()
    shown(tab, 2)
    assert "would get about 30% here" in words.inner_text()
    assert "\u221212% above random" in tab.locator("tr[data-question='2'] .much").inner_text()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    tab.locator("[name=photo][value='3']").check()
    shown(tab, 3)
    assert not words.is_visible()


def test_no_bar_where_contributions_add_up_to_nothing(open_report: Open) -> None:
    """By masking, and in a model without classes; the next photo has one again."""
    bare = {**weighed(), "name": "bare.png", "target": None, "predicted": None, "predictions": [], "contrast": None}
    tab = open_report(a_report(an_image("masked.png"), bare, weighed()))
    assert not tab.locator("#margin").is_visible()
    assert "+18%" in tab.locator("tr[data-question='2'] .much").inner_text()
    tab.locator("[name=photo][value='1']").check()
    shown(tab, 1)
    assert not tab.locator("#margin").is_visible()
    tab.locator("[name=photo][value='2']").check()
    shown(tab, 2)
    assert tab.locator("#margin").is_visible()


def test_a_place_that_is_not_clear_is_said_to_be_none(open_report: Open) -> None:
    image = weighed()
    for index, vague in {2: False, 3: True, 5: True}.items():
        image["questions"][index].update(place_contrast=0.2 if vague else 0.9, place_vague=vague)
    tab = open_report(a_report(image), width=360)
    said = [tab.locator(f"tr[data-question='{index}'] .where").inner_text() for index in (2, 3, 5)]
    assert ["no clear place" in one for one in said] == [False, True, False]  # an empty map is nowhere
    assert "nowhere" in said[2]
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
