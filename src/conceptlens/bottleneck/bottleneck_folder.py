"""A bottleneck as a folder: weights in safetensors, everything else in a checked JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from conceptlens.bottleneck.backbone_reference import BackboneReference
from conceptlens.bottleneck.concept_edit import Edit
from conceptlens.bottleneck.locator import LOCATORS, Locator
from conceptlens.io.errors import InputError
from conceptlens.io.saved_folder import CONFIG, FolderFormat
from conceptlens.model.preprocess import Preprocess

FOLDER_FORMAT = FolderFormat(
    "bottleneck",
    "bottleneck.safetensors",
    "conceptlens fit loc-cbm",
    2,
    {
        "concepts": "a list of objects",
        "classes": "a list of texts",
        "layer": "a text",
        "channels": "a whole number",
        "grid": "a list of whole numbers",
        "locator.kind": "a text",
        "locator.settings": "an object",
        "model.name": "a text",
        "model.identity": "a text",
        "model.preprocess": "an object",
        "edits": "a list of objects",
        "training": "an object",
    },
)
BACKBONE = "backbone "  # before the names of weights of the network that were trained too


def write_folder(
    folder: Path, state: Mapping[str, Tensor], changed: Mapping[str, Tensor], about: Mapping[str, Any]
) -> Path:
    """Write the weights of a bottleneck and its description, each atomically, and return the folder.

    `changed`: weights of the network that were trained too.
    """
    FOLDER_FORMAT.write(folder, {**state, **{f"{BACKBONE}{name}": value for name, value in changed.items()}}, about)
    return folder


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Return the description, the bottleneck's weights, and the weights of the network that were trained too."""
    about, tensors = FOLDER_FORMAT.read_config(folder), FOLDER_FORMAT.read_weights(folder)
    wrong = next((n for n, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())), None)
    if wrong is not None:
        raise FOLDER_FORMAT.damaged_error(
            folder, f"{FOLDER_FORMAT.weights_file} holds values in '{wrong}' that are not finite"
        )
    changed = {name.removeprefix(BACKBONE): value for name, value in tensors.items() if name.startswith(BACKBONE)}
    return about, {name: value for name, value in tensors.items() if not name.startswith(BACKBONE)}, changed


@contextmanager
def refusing(folder: Path) -> Iterator[None]:
    """Say of a bottleneck that cannot be made from a folder that the folder is broken."""
    try:
        yield
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise FOLDER_FORMAT.damaged_error(folder, f"{CONFIG} does not fit together: {error}") from None
    except RuntimeError:  # torch's own, where names or shapes differ
        raise FOLDER_FORMAT.damaged_error(
            folder, f"{FOLDER_FORMAT.weights_file} holds other sizes than {CONFIG}"
        ) from None


def stored_backbone(backbone: BackboneReference) -> dict[str, Any]:
    """Return which network is read, as JSON holds it."""
    return {
        "name": backbone.name,
        "identity": backbone.identity,
        "preprocess": asdict(backbone.preprocess) if backbone.preprocess else {},
    }


def read_backbone(stored: Mapping[str, Any], changed: Mapping[str, Tensor]) -> BackboneReference:
    """Return which network is read, with the weights that were trained too."""
    preprocess = stored["preprocess"]
    given: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in preprocess.items()}
    return BackboneReference(stored["name"], stored["identity"], Preprocess(**given) if preprocess else None, changed)


def stored_locator(locator: Locator) -> dict[str, Any]:
    """Return a locator's kind and settings, as JSON holds them."""
    kind = next(name for name, made in LOCATORS.items() if type(locator) is made)
    return {"kind": kind, "settings": locator.settings()}


def read_locator(stored: Mapping[str, Any]) -> Locator:
    """Return a locator of its kind, with its settings."""
    return LOCATORS[stored["kind"]](**stored["settings"])


def stored_edit(edit: Edit) -> dict[str, Any]:
    """Return an edit without infinite bounds, which JSON cannot hold: an open side is null."""
    return {name: None if value in (-math.inf, math.inf) else value for name, value in asdict(edit).items()}


def read_edit(stored: Mapping[str, Any]) -> Edit:
    """Return an edit, its open sides infinite."""
    bounds = {n: side if stored[n] is None else stored[n] for n, side in (("low", -math.inf), ("high", math.inf))}
    return Edit(**{**stored, **bounds})
