"""Your own explanations as one HTML file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from conceptlens.cams.finer_cam import LINEAR, ContrastSweep
from conceptlens.explainer.explain_numbers import is_competing
from conceptlens.explainer.explain_page import write_page
from conceptlens.explainer.page_content import Entry, page_content
from conceptlens.explainer.run import predictions
from conceptlens.io.errors import InputError
from conceptlens.io.images import jpeg
from conceptlens.io.output_path import check_output
from conceptlens.model.preprocess import Preprocess
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from conceptlens.model.observation import Observation


def report(path: str | os.PathLike[str], observation: Observation, *explained: Explanation | ContrastSweep) -> Path:
    """Write explanations of one observation as a self-contained HTML page and return its path.

    A `ContrastSweep` adds a slider for gamma and a choice of references. The page makes no outside request. Raises
    `InputError` where an explanation speaks of other photos than `observation`.
    """
    check_output(path, ".html", ".htm", name="the report's path")
    for given in explained:
        if not isinstance(given, (Explanation, ContrastSweep)):
            raise InputError(f"a {type(given).__name__} was given; expected explanations or sweeps of one observation")
    sweeps = [e for e in explained if isinstance(e, ContrastSweep)]
    explanations = [e.explanation() if isinstance(e, ContrastSweep) else e for e in explained]
    for explanation in explanations:
        if explanation.source.image_info != observation.image_info:
            raise InputError("an explanation speaks of other photos than the observation; report them separately")
    sliding = next((s.contrast_maps() for s in sweeps if s.rule.name in LINEAR), None)
    entries = [
        Entry(
            photo=jpeg(_photo(observation, i)),
            picture=observation.image_info[i],
            model=observation.model.name,
            layer=explanations[0].source.layer,
            target=predictions(observation, i)[0],
            predictions=predictions(observation, i),
            explanations=tuple(e.of(i) for e in explanations),
            mixture=None if sliding is None else sliding[i],
            command="\n".join(_code(observation, explanations, i)),
            settings={f"method {n}": e.source.method for n, e in enumerate(explanations, 1)},
        )
        for i in range(len(observation.image_info) if explanations else 0)
    ]
    return write_page(page_content(entries), path)


def _code(observation: Observation, explanations: list[Explanation], image: int) -> list[str]:
    """Return the lines of Python that make these explanations again."""
    name = observation.image_info[image].name
    lines = [f"observation = cl.load_model({observation.model.name!r}).observe(photo)  # {name}"]
    for explanation in explanations:
        settings = explanation.source.settings
        if explanation.concept_types:
            lines.append(_explain_code(explanation, settings, image))
        else:
            targets = ", ".join(str(t) for t in settings.get("targets", []))  # pyright: ignore
            lines.append(
                f"cl.cam(observation, [{targets}], {explanation.source.method!r}, {explanation.source.layer!r})"
            )
    return lines


def _explain_code(explanation: Explanation, settings: Mapping[str, object], image: int) -> str:
    """Return the call that makes an explanation of concepts again."""
    concepts = f"concepts={list(explanation.labels[image])!r}"
    if explanation.source.method == "competition":
        return f"cl.compete(observation, {concepts})"
    arguments = [concepts, *(f"{name}={settings[name]}" for name in ("target", "against") if name in settings)]
    if "branch" in settings:
        arguments.append("branch=cl.Translator.load(folder)")
    if is_competing(explanation):
        arguments.append('regions="competing"')
    return f"cl.explain(observation, {', '.join(arguments)})"


def _photo(observation: Observation, image: int) -> Image.Image:
    """Return the photo, or the input tensor as a picture where no photo was given."""
    photo = observation.photos[image]
    if photo is not None:
        return photo
    values = observation.images[image].detach().float().cpu().numpy().transpose(1, 2, 0)
    transform = observation.model.transform
    if isinstance(transform, Preprocess):
        values = values * np.array(transform.std) + np.array(transform.mean)
    else:
        values = (values - values.min()) / max(float(values.max() - values.min()), 1e-12)
    return Image.fromarray((values.clip(0, 1) * 255).astype(np.uint8)).convert("RGB")
