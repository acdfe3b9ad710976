"""The tables of the Finer-CAM page are those of the committed results."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "finer-cam.md"
SHOWN = ("settings, cub-whole", "earlier, cub-whole", "earlier, nips2017", "chosen, cub-whole", "chosen, nips2017")


def test_the_page_shows_what_was_measured() -> None:
    page = PAGE.read_text("utf-8")
    made = runpy.run_path(str(ROOT / "benchmarks" / "finer_cam_tables.py"))["tables"]()
    stale = [name for name in SHOWN if made[name] not in page]
    assert not stale, f"docs/finer-cam.md has other tables of {stale}; run python benchmarks/finer_cam_tables.py"
