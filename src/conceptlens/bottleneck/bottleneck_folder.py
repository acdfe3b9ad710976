"""A bottleneck as a folder: weights in safetensors, everything else in a checked JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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
    folder: Path,
    state: Mapping[str, Tensor],
    about: Mapping[str, Any],
    backbone: BackboneReference,
    locator: Locator,
    edits: Sequence[Edit],
) -> Path:
    """Write a bottleneck's weights, those of the network that were trained too, and its description, each atomically.

    Args:
        folder: The folder.
        state: The bottleneck's weights by name.
        about: Concepts, classes, layer, channels, grid and training.
        backbone: The network under the bottleneck.
        locator: The locator.
        edits: The lasting edits; an open side is null in JSON.

    Returns:
        The folder.
    """
    changed = {f"{BACKBONE}{name}": value for name, value in backbone.changed_weights.items()}
    description = {
        "kind": "conceptlens bottleneck",
        **about,
        "locator": {
            "kind": next(name for name, made in LOCATORS.items() if type(locator) is made),
            "settings": locator.settings(),
        },
        "model": {
            "name": backbone.name,
            "identity": backbone.identity,
            "preprocess": asdict(backbone.preprocess) if backbone.preprocess else {},
        },
        "edits": [
            {name: None if value in (-math.inf, math.inf) else value for name, value in asdict(edit).items()}
            for edit in edits
        ],
    }
    FOLDER_FORMAT.write(folder, {**state, **changed}, description)
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


def read_parts(
    about: Mapping[str, Any], changed: Mapping[str, Tensor]
) -> tuple[BackboneReference, Locator, list[Edit]]:
    """Return the network, the locator and the edits of a description; `changed`: weights that were trained too."""
    model, locator = about["model"], about["locator"]
    given: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in model["preprocess"].items()}
    backbone = BackboneReference(model["name"], model["identity"], Preprocess(**given) if given else None, changed)
    edits = []
    for edit in about["edits"]:
        low, high = edit["low"], edit["high"]
        bounds = {"low": -math.inf if low is None else low, "high": math.inf if high is None else high}
        edits.append(Edit(**{**edit, **bounds}))
    return backbone, LOCATORS[locator["kind"]](**locator["settings"]), edits
