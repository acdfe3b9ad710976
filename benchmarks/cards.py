"""A card for each method: measured, drawn and written as pages.

`python benchmarks/cards.py` measures everything, for some minutes, and writes `docs/results/cards.json`, the golden
maps, the pictures and the pages; `--part costs` measures these alone, `--pages` writes pages from what was measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageFilter
from torch import Tensor

import conceptlens as cl
from card_costs import measure_costs
from card_pages import pages
from card_peers import compare, peers
from card_results import measure_on_scenes
from card_texts import card_texts
from drawn_network import load_network
from golden_maps import golden_cases, make_maps, write_golden
from run_record import run_record

DOCS = Path(__file__).parents[1] / "docs"
RESULT, PAGES, PICTURES = DOCS / "results" / "cards.json", DOCS / "cards", DOCS / "images" / "cards"
PACKAGES = ("conceptlens", "torch", "timm", "grad-cam", "torchcam", "captum")
WIDTH = 200


PARTS: dict[str, Callable[[], Any]] = {
    "peers": lambda: compare(peers()),
    "scenes": lambda: measure_on_scenes(load_network()),
    "costs": measure_costs,
}


def main() -> None:
    """Measure, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", action="store_true", help="write the pages alone, from docs/results/cards.json")
    parser.add_argument("--part", choices=PARTS, action="append", help="measure this alone, and keep the other numbers")
    asked = parser.parse_args()
    if not asked.pages:
        torch.set_num_threads(1)
        maps = make_maps(load_network())
        write_golden(maps)
        draw(maps)
        measured = measure(asked.part or list(PARTS))
        RESULT.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    write_pages()


def measure(parts: Sequence[str]) -> dict[str, Any]:
    """Return every number of the cards: some parts anew, the others as they were."""
    before = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    return {
        "name": "cards",
        **{part: PARTS[part]() if part in parts else before[part] for part in PARTS},
        "setting": setting(),
    }


def setting() -> dict[str, Any]:
    """Return what is needed to read the numbers: command, versions, machine."""
    return run_record(PACKAGES)


def write_pages() -> None:
    """Write every page from what was measured."""
    PAGES.mkdir(exist_ok=True)
    for name, text in pages(json.loads(RESULT.read_text(encoding="utf-8"))).items():
        (PAGES / name).write_text(text, encoding="utf-8")


def draw(maps: dict[str, Tensor]) -> None:
    """Write the scenes with what is asked for, and each card's maps, on scenes without colour and noise."""
    PICTURES.mkdir(exist_ok=True)
    cases, texts = golden_cases(), card_texts()
    size = (WIDTH, WIDTH)
    scenes = [case.scene.image.resize(size, Image.Resampling.BICUBIC) for case in cases]
    asked = [f"Where is “{case.asked}”?" for case in cases]
    cl.render.panel(scenes, [None] * len(cases), asked, width=WIDTH).save(PICTURES / "scenes.webp", quality=60)
    smooth = [case.scene.image.convert("L").filter(ImageFilter.MedianFilter(5)).resize(size) for case in cases]
    pale = [Image.blend(one.convert("RGB"), Image.new("RGB", size, "white"), 0.4) for one in smooth]
    for name, text in texts.items():
        titles = [text.title] * len(cases)
        if name == "finer_cam":
            titles = [f"{case.asked}, not {case.rival}" for case in cases]
        sheet = cl.render.panel(pale, list(maps[name]), titles, scale="own", opacity=0.8, width=WIDTH)
        sheet.save(PICTURES / text.picture, quality=70)


if __name__ == "__main__":
    main()
