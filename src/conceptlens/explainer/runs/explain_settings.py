"""What an explaining run is known by: all that decides its rows, so that the same run is found again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from conceptlens.explainer.calibration import find_calibration
from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import bytes_fingerprint, texts_fingerprint, weights_fingerprint
from conceptlens.model.preprocess import preparation_settings

if TYPE_CHECKING:
    from torch import Tensor

    from conceptlens.cams.asked_classes import ClassName
    from conceptlens.explainer.photo_run import ExplainOptions
    from conceptlens.model.backbone import Backbone


def run_options(model: Backbone, options: ExplainOptions, with_maps: bool) -> ExplainOptions:
    """Return options with all that is looked up for a model, so that every batch has the same.

    Args:
        model: The model to explain.
        options: What to compute for every photo.
        with_maps: Whether maps are kept.

    Raises:
        InputError: The model gives no concepts, a class is unknown, or the branch or discovered concepts are of
            another model.
    """
    if model.known_task in ("detection", "dense"):
        raise InputError(
            f"{model.name} finds objects or pixels and no concepts, which a store keeps; explain it without --store"
        )
    for name in (options.target, options.against):
        if name is not None:
            model.class_index(name)
    if options.branch is not None:
        options.branch.check(model)
    if options.concepts_from is not None:
        options.concepts_from.check(model)
    found = options.calibration if options.branch is not None else options.calibration or find_calibration(model)
    return replace(options, calibration=found, with_class_map=with_maps, for_page=False, with_concepts=True)


def run_settings(
    model: Backbone, options: ExplainOptions, with_maps: bool, with_labels: bool = False
) -> dict[str, Any]:
    """Return what a run is known by: the model, its weights, and all options that decide rows.

    The photos and their labels are left out, for a folder may grow; so is the size of batches.

    Args:
        model: The model to explain.
        options: What `run_options` returns.
        with_maps: Whether maps are kept.
        with_labels: Whether the true classes of photos are kept.
    """
    values = {
        "explain": "photos",
        "model": model.name,
        "weights": weights_fingerprint(model.module),
        "preparation": preparation_settings(model.preprocess, model.transform),
        "task": model.known_task,
        "class_names": None if model.class_names is None else texts_fingerprint(model.class_names),
        "text": None if model.text is None else model.text.name,
        "knowledge": None if model.knowledge is None else texts_fingerprint(map(repr, _known_classes(model))),
        "layers": model.default_layers,
        "target": _class_of(model, options.target),
        "against": _class_of(model, options.against),
        "concepts": None if options.concepts is None else [f"{one.label}:{one.type}" for one in options.concepts],
        "top": options.top,
        "regions": options.regions,
        "layer": options.layer,
        "contribution": options.contribution,
        "intervals": options.intervals,
        "random_level": options.random_level,
        "calibration": _calibration(options),
        "branch": None if options.branch is None else weights_fingerprint(options.branch.branch),
        "concepts_from": _discovered(options),
        "maps": options.rule if with_maps else None,
        "labels": with_labels,
        **({"autocast": True} if model.autocast else {}),
    }
    return json.loads(json.dumps(values))  # tuples become lists, as they come back from a store


def _known_classes(model: Backbone) -> list[tuple[Any, ...]]:
    classes = () if model.knowledge is None else model.knowledge.classes
    return [(one.name, one.kinds, dict(one.rates)) for one in classes]


def _class_of(model: Backbone, name: ClassName | None) -> int | None:
    return None if name is None else int(model.class_index(name))


def _calibration(options: ExplainOptions) -> str | None:
    found = options.calibration
    if found is None:
        return None
    return texts_fingerprint([_values([found.mean, found.basis, found.rest]), repr(found.presence)])


def _discovered(options: ExplainOptions) -> str | None:
    found = options.concepts_from
    return None if found is None else texts_fingerprint([_values([found.directions]), *found.names])


def _values(tensors: Iterable[Tensor]) -> str:
    return bytes_fingerprint(b"".join(one.detach().cpu().contiguous().numpy().tobytes() for one in tensors))
