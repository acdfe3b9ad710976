"""Discovered concepts as one HTML page without scripts: a wall of the strongest places of each, and how many why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from conceptlens.data.masked_set import resize_mask
from conceptlens.discovery.concept_count import MIN_GAIN, MIN_SHARED, MIN_STABILITY, Candidate, taken_in_turn
from conceptlens.discovery.concept_places import Place
from conceptlens.discovery.discovered_concepts import DiscoveredConcepts
from conceptlens.io.atomic import write_text
from conceptlens.io.errors import InputError
from conceptlens.io.images import read_image
from conceptlens.pages.mask_outline import draw_outline
from conceptlens.pages.static_page import embedded_photo, page_origin, static_page
from conceptlens.render.upsampling import upsample_in_box

PAGE = "report.html"
# The side of a tile in pixels, and the part of a place's activation from which on a cell belongs to its region.
SIDE, REGION = 208, 0.5
# How much darker a photo is outside of the region.
DARKER = 0.32


def write_discovery_page(found: DiscoveredConcepts, folder: Path) -> Path:
    """Write the page of discovered concepts into their folder and return its path.

    Args:
        found: The concepts; the photos of their places are read again, and one that is gone is left blank.
        folder: The folder that the concepts are saved in.

    Returns:
        The path of `report.html`.
    """
    file = folder / PAGE
    write_text(file, discovery_page(found, folder))
    return file


def discovery_page(found: DiscoveredConcepts, folder: Path) -> str:
    """Return the page of discovered concepts as HTML that loads nothing from outside.

    Args:
        found: The concepts.
        folder: The folder that they are saved in, for the command that names them.
    """
    about = found.diagnostics
    taken = found.candidates[found.chosen]
    settings = {
        "photos": about["photos"],
        "cells factorised": about["cells"],
        "cells of a photo at most": about["cells_of_photo"],
        "photos held out": about["held_out"],
        "values": "of both signs (semi-NMF)" if about["signed"] else "none below 0 (NMF)",
        "seed": about["seed"],
    }
    return static_page(
        "conceptlens.discovery",
        "discovery.html.j2",
        "table.css",
        "discovery.css",
        **page_origin(settings),
        found=found,
        about=about,
        folder=folder,
        concepts=[_concept(found, number) for number in range(len(found))],
        candidates=[_verdict(found, index) for index in range(len(found.candidates))],
        reason=_reason(found, taken),
        failures=found.failures,
        least=MIN_STABILITY,
        fewest=MIN_SHARED,
    )


def _concept(found: DiscoveredConcepts, number: int) -> dict[str, Any]:
    return {
        "number": number,
        "name": found.names[number],
        "label": found.labels[number],
        "activity": found.activity[number],
        "bar": f"{100 * found.activity[number] / max(max(found.activity), 1e-12):.1f}%",
        "stability": found.stability[number],
        "shared": found.shared[number],
        "suggestions": found.suggestions[number],
        "tiles": [tile(place) for place in found.places[number]],
    }


def tile(place: Place) -> dict[str, Any]:
    """Return a square of a photo around a place with its region outlined; without a source where the photo is gone.

    Args:
        place: One of the strongest places of a concept.
    """
    name = Path(place.photo).name
    try:
        photo = read_image(place.photo)
    except InputError:
        return {"photo": name, "source": None}
    values = upsample_in_box(place.activations.numpy(), photo.height, photo.width, place.box)
    return {"photo": name, **embedded_photo(_square(photo, values >= REGION * place.activation))}


def _square(photo: Image.Image, region: np.ndarray) -> Image.Image:
    """Return the largest square of a photo that has the middle of the region in its middle, as far as it can."""
    side = min(photo.size)
    middle = ndimage.center_of_mass(region) if region.any() else (photo.height / 2, photo.width / 2)
    top, left = (
        round(min(max(float(at) - side / 2, 0), whole - side))
        for at, whole in zip(middle, (photo.height, photo.width), strict=True)
    )
    cut = photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    inside = resize_mask(region[top : top + side, left : left + side], (SIDE, SIDE))
    pixels = np.asarray(cut.convert("RGB")) * np.where(inside, 1.0, 1 - DARKER)[..., None]
    return draw_outline(Image.fromarray(np.rint(pixels).astype(np.uint8)), inside)


def _verdict(found: DiscoveredConcepts, index: int) -> dict[str, Any]:
    """Return a candidate with what became of it, in words."""
    one = found.candidates[index]
    if index == found.chosen:
        verdict = "taken"
    elif not one.kept:
        verdict = "none is found again and shared"
    elif index in taken_in_turn(found.candidates):
        verdict = "those of a larger number explain more"
    else:
        verdict = "explains hardly more than a smaller number"
    return {"candidate": one, "verdict": verdict, "taken": index == found.chosen}


def _reason(found: DiscoveredConcepts, taken: Candidate) -> str:
    """Return why these concepts were taken."""
    if len(found.candidates) == 1:
        return f"{taken.count} concepts were asked for; other numbers were not tried, and all are shown."
    rule = f"found again from other starts and on other photos (a cosine of {MIN_STABILITY:g} or more)"
    if not taken.kept:
        return (
            f"No direction is {rule} and shared by at least {MIN_SHARED:g} photos, at any number. All of the "
            f"most stable fit are shown; read them with care, and give more photos, or photos that are more alike."
        )
    return (
        f"Of {taken.count} directions, {taken.kept} are kept: those {rule} and shared by at least {MIN_SHARED:g} "
        f"photos. The others belong to single photos or to this run. {taken.count} is the largest number at which "
        f"those kept explain {100 * MIN_GAIN:g} % or more beyond the number taken before it, in photos held out."
    )
