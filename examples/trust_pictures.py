"""Make the pictures of *Can I trust this?* from the photos of scikit-image: `python examples/trust_pictures.py`."""

import io
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from PIL import Image
from skimage import data

import conceptlens as cl
from conceptlens.concept_regions.competing_explanation import MIN_PLACE_CONTRAST
from conceptlens.model.predictions import predictions
from conceptlens.palette import PAGE

IMAGES = Path("docs") / "images"
WIDTH, PIXELS = 10.0, 1100
# By eye, of the words that are listed: the espresso shows all of its own.
ABSENT, UNCLEAR = {"person"}, {"smooth", "shiny", "grey"}
FOR, WRONG, HOLLOW, INK = (PAGE[name][0] for name in ("for", "warm", "hollow", "ink"))


def save(figure: Any, name: str) -> None:
    """Write a figure as a JPEG file of the docs."""
    with io.BytesIO() as buffer:
        figure.savefig(buffer, dpi=PIXELS / WIDTH)
        Image.open(buffer).convert("RGB").save(IMAGES / name, quality=85, optimize=True)
    plt.close(figure)


def what_picture(model: cl.Backbone) -> None:
    """The words listed for two photos, as long as they are likely, by whether they are in the photo."""
    figure, axes = plt.subplots(1, 4, figsize=(WIDTH, 2.6), layout="constrained", width_ratios=[1, 1.1, 1, 1.1])
    for number, photo in enumerate((data.coffee(), data.rocket())):
        observation = model.observe(photo)
        found = cl.explain(observation)
        assert found.presence is not None
        show_photo(axes[2 * number], observation)
        bars, words, likely = axes[2 * number + 1], found.labels[0], found.presence[0].tolist()
        unclear = UNCLEAR if number else set()
        colours = [WRONG if word in ABSENT else HOLLOW if word in unclear else FOR for word in words]
        bars.barh(words, likely, color=colours, height=0.7)
        for row, value in enumerate(likely):
            bars.text(value - 0.03, row, f"{value:.0%}", ha="right", va="center", color="white", fontsize=8)
        bars.invert_yaxis()
        bars.set_xlim(0, 1)
        bars.set_xticks([])
        bars.tick_params(labelsize=9, length=0)
        bars.spines[:].set_visible(False)
    names = {FOR: "in the photo", HOLLOW: "cannot be told", WRONG: "not in the photo"}
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in names]
    figure.legend(handles, list(names.values()), loc="outside lower right", ncols=3, fontsize=9, frameon=False)
    save(figure, "trust-what.jpg")


def show_photo(axis: Any, observation: cl.Observation) -> None:
    """Draw the part of a photo that the model saw, below the class that it is taken for."""
    photo = observation.photos[0]
    assert photo is not None
    left, top, right, bottom = observation.image_info[0].box
    axis.imshow(photo.crop((left * photo.width, top * photo.height, right * photo.width, bottom * photo.height)))
    answer = predictions(observation, 0)[0]
    axis.set_title(f"{answer.short_name}, {answer.probability:.0%}", fontsize=9)
    axis.set_axis_off()


def where_picture(model: cl.Backbone) -> None:
    """Regions that are right and regions that are not, with a ring at their peaks."""
    asked = (
        (data.coffee(), "cup, espresso, wooden table, spoon"),
        (data.chelsea(), "cat, eye, whiskers, brown:colour"),
    )
    figure, axes = plt.subplots(2, 4, figsize=(WIDTH, 3.85), layout="constrained")
    for row, (photo, words) in zip(axes, asked, strict=True):
        found = cl.explain(model.observe(photo), words)
        whole = found.upsampled()[0]
        for axis, label, contrast, values in zip(
            row, found.labels[0], found.diagnostics["place_contrast"][0].tolist(), whole, strict=True
        ):
            axis.imshow(found.overlay(Image.fromarray(photo), label))
            y, x = divmod(int(values.argmax()), values.shape[1])
            axis.plot(x, y, "o", markersize=16, markerfacecolor="none", markeredgecolor="white", markeredgewidth=2.5)
            vague = contrast < MIN_PLACE_CONTRAST
            axis.set_title(f"{label}: no clear place" if vague else label, fontsize=10, color=WRONG if vague else INK)
            axis.set_axis_off()
    save(figure, "trust-where.jpg")


def how_much_picture(model: cl.Backbone) -> None:
    """One photo, one class, two lists: the margin stays, what is shared out changes."""
    observation = model.observe(data.coffee())
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 2.9), layout="constrained")
    lists = {"words as found": None, "four words asked for": "cup, saucer, spoon, wooden table"}
    for axis, (name, words) in zip(axes, lists.items(), strict=True):
        cl.explain(observation, words).plot_margin(ax=axis)
        axis.set_title(f"{name}: {axis.get_title(loc='left')}", fontsize=9, loc="left")
    save(figure, "trust-how-much.jpg")


def doubt_picture(model: cl.Backbone) -> None:
    """Contributions with their ranges; open dots have no clear place."""
    words_of_cat = "cat, tabby stripes, eye, whiskers, furry:texture, brown:colour, blorfin"
    asked = ((data.coffee(), None), (data.chelsea(), words_of_cat))
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.2), layout="constrained")
    for axis, (photo, words) in zip(axes, asked, strict=True):
        observation = model.observe(photo)
        found = cl.explain(observation, words, intervals=True)
        for row in range(len(found.labels[0])):
            draw_range(axis, found, row)
        axis.set_yticks(range(len(found.labels[0])), found.labels[0], fontsize=9)
        axis.set_ylim(len(found.labels[0]) - 0.5, -0.5)
        axis.axvline(0, color=HOLLOW, linewidth=1)
        axis.spines[["left", "right", "top"]].set_visible(False)
        axis.tick_params(axis="x", labelsize=8)
        axis.tick_params(axis="y", length=0)
        axis.set_title(f"{found.explained_classes[0].split(',')[0]}, contributions in logits", fontsize=9, loc="left")
    dots = [plt.Line2D([], [], **dot(vague)) for vague in (False, True)]
    figure.legend(
        dots, ["has a place", "no clear place"], loc="outside lower right", ncols=2, fontsize=9, frameon=False
    )
    save(figure, "trust-doubt.jpg")


def dot(vague: bool) -> dict[str, Any]:
    """Return how a contribution is drawn: open where its concept has no clear place."""
    fill = "white" if vague else FOR
    return {
        "marker": "o",
        "color": "none",
        "markersize": 8,
        "markeredgewidth": 1.8,
        "markeredgecolor": FOR,
        "markerfacecolor": fill,
    }


def draw_range(axis: Any, found: cl.Explanation, row: int) -> None:
    """Draw one concept's contribution and range, or that it is not known."""
    if found.known is not None and not found.known[0, row]:
        axis.text(0.02, row, "not known to this model", fontsize=9, va="center", color=WRONG)
        return
    low, value, high = (
        float(part[0, row]) for part in (found.contributions_low, found.contributions, found.contributions_high)
    )
    vague = float(found.diagnostics["place_contrast"][0, row]) < MIN_PLACE_CONTRAST
    axis.plot([low, high], [row, row], color=FOR, linewidth=3, alpha=0.45, solid_capstyle="butt")
    axis.plot(value, row, **dot(vague))


def trust_pictures() -> None:
    """Make all of them with the default model."""
    model = cl.load_model()
    what_picture(model)
    where_picture(model)
    how_much_picture(model)
    doubt_picture(model)


if __name__ == "__main__":
    trust_pictures()
