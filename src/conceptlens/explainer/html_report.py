"""Your own explanations as one HTML file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from conceptlens.cams.finer_cam import LINEAR, ContrastSweep
from conceptlens.explainer.discovered_rows import DISCOVERED
from conceptlens.explainer.explain_json import regions_of
from conceptlens.explainer.page_content import page_content
from conceptlens.explainer.photo_result import PhotoResult, known_differences
from conceptlens.explainer.report_page import write_page
from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.io.images import fingerprint, jpeg, read_image, upright
from conceptlens.io.output_path import check_file
from conceptlens.model.observation import Observation
from conceptlens.model.predictions import Prediction, predictions
from conceptlens.record import Explanation, ImageInfo

if TYPE_CHECKING:
    from conceptlens.model.image_batch import Photo

# What a photo may be given as; a list of them is several photos.
PHOTO_TYPES = (str, Path, Image.Image, np.ndarray)


def report(
    path: str | os.PathLike[str],
    images: Observation | Photo | Sequence[Photo],
    *explanations: Explanation | ContrastSweep,
) -> Path:
    """Write explanations as a self-contained HTML page, which makes no outside request.

    Args:
        path: The file to write; it ends in `.html`.
        images: The observation that was explained; or, for maps that were made elsewhere
            (`Explanation.from_maps`), the photos themselves: paths, PIL images or arrays.
        explanations: Explanations of these images. A `ContrastSweep` adds a slider for gamma and a choice of classes.

    Returns:
        The path of the page.

    Raises:
        InputError: An explanation speaks of other photos, or there is nothing to show.
        InputTypeError: `images` is neither an observation nor photos, or an explanation is none.

    Examples:
        >>> observation = model.observe("cat.png")
        >>> cl.report("cat.html", observation, cl.cam(observation), cl.explain(observation, "whiskers"))
    """
    check_file(path, ".html", ".htm", name="the report's path")
    for given in explanations:
        if not isinstance(given, (Explanation, ContrastSweep)):
            raise InputTypeError(f"a {type(given).__name__} was given; expected explanations or sweeps of the images")
    sweeps = [e for e in explanations if isinstance(e, ContrastSweep)]
    explained = [e.explanation() if isinstance(e, ContrastSweep) else e for e in explanations]
    sliding = next((s.contrast_maps() for s in sweeps if s.rule.name in LINEAR), None)
    results = _observed(images, explained) if isinstance(images, Observation) else _photographed(images, explained)
    if sliding is not None:
        results = [replace(result, mixture=mixture) for result, mixture in zip(results, sliding, strict=True)]
    return write_page(page_content(results), path)


def _observed(observation: Observation, explained: list[Explanation]) -> list[PhotoResult]:
    """Return one result for each image of an observation, with what its model predicts."""
    _check_images(observation.image_info, explained)
    results = []
    for i, image_info in enumerate(observation.image_info if explained else ()):
        top = () if observation.class_scores is None else predictions(observation, i)
        target, against = _explained(observation, explained, i) if top else (None, None)
        results.append(
            PhotoResult(
                image_info=image_info,
                model=observation.model.name,
                layer=explained[0].source.layer,
                explanations=tuple(e.of(i) for e in explained),
                target=target or (top[0] if top else None),
                against=against,
                differs_by=known_differences(observation.model, target, against),
                predictions=top,
                answer=observation.answer if top else None,
                photo=jpeg(_photo(observation, i)),
                command="\n".join(_code(observation, explained, i)),
                settings=_methods(explained),
            )
        )
    return results


def _explained(
    observation: Observation, explained: list[Explanation], image: int
) -> tuple[Prediction | None, Prediction | None]:
    """Return the class that contributions are about, and the one they are compared with; `None` where there is none."""
    label = next((e.explained_classes[image] for e in explained if e.explained_classes), None)
    known = observation.model.class_names or ()
    names = [label] if label in known else (label or "").split(" / ", 1)
    indices = [known.index(name) for name in names if name in known]
    found = predictions(observation, image, torch.tensor(indices, device="cpu")) if indices else ()
    return (found[0] if found else None), (found[1] if len(found) > 1 else None)


def _photographed(photos: Photo | Sequence[Photo], explained: list[Explanation]) -> list[PhotoResult]:
    """Return one result for each photo, of maps that were made without an observation."""
    several = list(photos) if isinstance(photos, Iterable) and not isinstance(photos, PHOTO_TYPES) else [photos]
    wrong = next((type(one).__name__ for one in several if not isinstance(one, PHOTO_TYPES)), None)
    if wrong is not None:
        raise InputTypeError(
            f"a {wrong} was given as the images; expected an Observation, or photos as paths, PIL or arrays"
        )
    loaded = [_load(photo) for photo in several]
    names = [str(photo) if isinstance(photo, (str, Path)) else f"photo[{i}]" for i, photo in enumerate(several)]
    infos = [ImageInfo(name, fingerprint(p), *p.size) for name, p in zip(names, loaded, strict=True)]
    _check_images(infos, explained)
    return [
        PhotoResult(
            image_info=infos[i],
            model=explained[0].source.model,
            layer=explained[0].source.layer,
            explanations=tuple(e.of(i) for e in explained),
            photo=jpeg(photo),
            settings=_methods(explained),
        )
        for i, photo in enumerate(loaded if explained else ())
    ]


def _check_images(infos: Sequence[ImageInfo], explained: list[Explanation]) -> None:
    """Refuse explanations of another number of images, or of images with other pixels."""
    for explanation in explained:
        if len(explanation.maps) != len(infos):
            raise InputError(
                f"an explanation of {len(explanation.maps)} images was given for {len(infos)}; report them separately"
            )
        for own, info in zip(explanation.source.image_info, infos, strict=False):
            if own.fingerprint and info.fingerprint and own.fingerprint != info.fingerprint:
                raise InputError(f"an explanation speaks of other photos than {info.name}; report them separately")


def _methods(explained: list[Explanation]) -> dict[str, object]:
    return {f"method {n}": e.source.method for n, e in enumerate(explained, 1)}


def _code(observation: Observation, explained: list[Explanation], image: int) -> list[str]:
    """Return the lines of Python that make these explanations again; maps made elsewhere have none."""
    name = observation.image_info[image].name
    lines = [f"observation = cl.load_model({observation.model.name!r}).observe(photo)  # {name}"]
    for explanation in explained:
        settings = explanation.source.settings
        if explanation.concept_types:
            lines.append(_explain_code(explanation, settings, image))
        elif "targets" in settings:
            targets = ", ".join(str(t) for t in settings["targets"])  # pyright: ignore
            lines.append(
                f"cl.cam(observation, [{targets}], {explanation.source.method!r}, {explanation.source.layer!r})"
            )
    return lines


def _explain_code(explanation: Explanation, settings: Mapping[str, object], image: int) -> str:
    """Return the call that makes an explanation of concepts again."""
    rows = zip(explanation.labels[image], explanation.concept_types[image], strict=True)
    concepts = f"concepts={[label for label, kind in rows if kind != DISCOVERED]!r}"
    if explanation.source.method == "competition":
        return f"cl.compete(observation, {concepts})"
    arguments = [concepts, *(f"{name}={settings[name]}" for name in ("target", "against") if name in settings)]
    if "branch" in settings:
        arguments.append("branch=cl.Translator.load(folder)")
    arguments.append(f'regions="{regions_of(explanation)}"')
    if explanation.contributions is not None and explanation.margins is None:
        arguments.append('contribution="masking"')
    if explanation.random_level is not None and (explanation.margins is None or regions_of(explanation) == "official"):
        arguments.append("random_level=True")  # where it is not there by default
    if explanation.contributions_low is not None:
        arguments.append("intervals=True")
    if DISCOVERED in explanation.concept_types[image]:
        arguments.append("concepts_from=cl.DiscoveredConcepts.load(folder)")
    return f"cl.explain(observation, {', '.join(arguments)})"


def _load(photo: Photo) -> Image.Image:
    if isinstance(photo, (str, Path)):
        return read_image(photo)
    return upright(photo if isinstance(photo, Image.Image) else Image.fromarray(np.asarray(photo)))


def _photo(observation: Observation, image: int) -> Image.Image:
    """Return the photo, or the input tensor as an image where no photo was given."""
    photo = observation.photos[image]
    if photo is not None:
        return photo
    values = observation.images[image].detach().float().cpu().numpy().transpose(1, 2, 0)
    known = observation.model.preprocess
    if known is not None:
        values = values * np.array(known.std) + np.array(known.mean)
    else:
        values = (values - values.min()) / max(float(values.max() - values.min()), 1e-12)
    return Image.fromarray((values.clip(0, 1) * 255).astype(np.uint8)).convert("RGB")
