"""Explain real photos with real weights, offline, and write a report: `make demo`."""

import sys
from pathlib import Path

import skimage

from conceptlens.cli import app

PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")


def main() -> None:
    folder = Path(skimage.__file__).parent / "data"
    photos = [str(folder / name) for name in PHOTOS]
    out = Path("demo") / "report.html"
    sys.argv[1:] = [
        "explain",
        *photos,
        "--intervals",
        "--out",
        str(out),
    ]  # the page shows the command that makes it again
    app()


if __name__ == "__main__":
    main()
