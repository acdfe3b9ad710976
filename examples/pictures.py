"""Make the pictures of the README and the docs: `python examples/pictures.py [COCO_PANOPTIC]`."""

import io
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image
from skimage import data
from trust_pictures import trust_pictures

import conceptlens as cl
from conceptlens.cli import app
from conceptlens.render import panel

IMAGES = Path("docs") / "images"


def explain_picture() -> None:
    """A cup of espresso: the class, the contrast, three concepts, and what the margin consists of."""
    observation = cl.load_model(crop_mode="squash").observe(data.coffee())
    plain = cl.cam(observation, cl.Logit("espresso"))
    finer = cl.cam(observation, cl.Contrast("espresso", nearest=3))
    named = cl.explain(observation, concepts="cup, saucer, wooden table", target="espresso")
    maps = [None, plain.maps[0, 0], finer.maps[0, 0], *named.maps[0]]
    titles = ["the photo", "espresso (Grad-CAM)", "not similar classes (Finer-CAM)", *named.labels[0]]
    box = observation.image_info[0].box
    top = panel(observation.photos[0], maps, titles, scale="own", columns=3, box=box)
    bar = margin_picture(named, top.width)
    whole = Image.new("RGB", (top.width, top.height + bar.height), "white")
    whole.paste(top, (0, 0))
    whole.paste(bar, (0, top.height))
    whole.save(IMAGES / "explain.jpg", quality=88)


def margin_picture(explanation: cl.Explanation, width: int) -> Image.Image:
    """Return the bar of an explanation's margin, as wide as the maps above it."""
    figure, axes = plt.subplots(figsize=(9, 1.45), layout="constrained")
    explanation.plot_margin(ax=axes)
    with io.BytesIO() as buffer:
        figure.savefig(buffer, dpi=width / 9)
        plt.close(figure)
        return Image.open(buffer).convert("RGB")


def quick_start_picture() -> None:
    """The two maps of the quick start."""
    observation = cl.load_model().observe(data.chelsea())
    plain = cl.cam(observation, cl.Logit("tiger cat"))
    finer = cl.cam(observation, cl.Contrast("tiger cat"))
    titles, box = ["tiger cat", "against similar classes"], observation.image_info[0].box
    maps = [plain.maps[0, 0], finer.maps[0, 0]]
    panel(observation.photos[0], maps, titles, scale="own", box=box).save(IMAGES / "quick-start.png")


def analysis_pictures(coco: str) -> None:
    """Two figures of `conceptlens analyze`, of 100 photos of COCO."""
    with tempfile.TemporaryDirectory() as folder:
        store, out, of = f"{folder}/store", Path(folder) / "out", f"coco_panoptic:{coco}"
        words = ["--layers", "blocks.4,blocks.6,bn2", "--input-size", "448", "--min-area", "0.02"]
        app(["embed", "--data", of, "--split", "val2017", *words, "--out-dir", store], standalone_mode=False)
        app(["analyze", store, "--out-dir", str(out)], standalone_mode=False)
        for name in ("confusion", "projection"):
            figure = Image.open(out / "figures" / f"{name}.png").convert("RGB")
            figure.thumbnail((1100, 1100))
            figure.save(IMAGES / f"analyze-{name}.jpg", quality=88)


def main() -> None:
    explain_picture()
    quick_start_picture()
    trust_pictures()
    if len(sys.argv) > 1:
        analysis_pictures(sys.argv[1])


if __name__ == "__main__":
    main()
