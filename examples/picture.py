"""Make the picture at the top of the README: `python examples/picture.py`."""

from pathlib import Path

from skimage import data

import conceptlens as cl
from conceptlens.render import panel


def main() -> None:
    photo = data.coffee()
    observation = cl.load_model(crop_mode="squash").observe(photo)
    plain = cl.cam(observation, cl.Logit("espresso"))
    finer = cl.cam(observation, cl.Contrast("espresso", nearest=3))
    named = cl.explain(observation, concepts="cup, spoon, wooden table", target="espresso", regions="competing")
    maps = [None, plain.maps[0, 0], finer.maps[0, 0], *named.maps[0]]
    titles = ["the photo", "espresso (Grad-CAM)", "not its look-alikes (Finer-CAM)", *named.labels[0]]
    shown = [None if m is None else m.numpy() for m in maps]
    picture = panel(observation.photos[0], shown, titles, scale="own", columns=3, box=observation.image_info[0].box)
    picture.save(Path("docs") / "images" / "explain.jpg", quality=88)


if __name__ == "__main__":
    main()
