"""A bottleneck as a folder: weights in safetensors, everything else in a checked JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from conceptlens.bottleneck.edit import Edit
from conceptlens.bottleneck.locator import LOCATORS
from conceptlens.bottleneck.module import Base, Bottleneck
from conceptlens.concepts.concept_set import BottleneckConcept
from conceptlens.io.errors import InputError
from conceptlens.io.saved_folder import CONFIG, Described
from conceptlens.model.preprocess import Preprocess

FOLDER = Described(
    "bottleneck",
    "bottleneck.safetensors",
    "conceptlens fit loc-cbm",
    1,
    {
        "concepts": "a list of objects",
        "classes": "a list of texts",
        "values": "a text",
        "channels": "a whole number",
        "grid": "a list of whole numbers",
        "locator.kind": "a text",
        "locator.settings": "an object",
        "model.name": "a text",
        "model.identity": "a text",
        "model.view": "an object",
        "edits": "a list of objects",
        "training": "an object",
    },
)
BACKBONE = "backbone "  # before the names of weights of the network that were trained too


def save_bottleneck(bottleneck: Bottleneck, folder: str | Path) -> Path:
    """Write weights and description, each atomically, and return the folder."""
    place = Path(folder)
    tensors: dict[str, Tensor] = dict(bottleneck.state_dict())
    tensors |= {f"{BACKBONE}{name}": value for name, value in bottleneck.base.changed.items()}
    kind = next(name for name, made in LOCATORS.items() if type(bottleneck.locator) is made)
    base = bottleneck.base
    about = {
        "kind": "conceptlens bottleneck",
        "concepts": [asdict(concept) for concept in bottleneck.concepts],
        "classes": list(bottleneck.classes),
        "values": bottleneck.values,
        "channels": bottleneck.weight.shape[1],
        "grid": list(bottleneck.grid),
        "locator": {"kind": kind, "settings": bottleneck.locator.settings()},
        "model": {
            "name": base.name,
            "identity": base.identity,
            "view": asdict(base.view) if base.view else {},
        },
        "edits": [_stored(edit) for edit in bottleneck.edits],
        "training": bottleneck.training_record,
    }
    FOLDER.write(place, tensors, about)
    return place


def load_bottleneck(folder: str | Path) -> Bottleneck:
    """Read what `save_bottleneck` wrote: on a processor of the same kind, logits are the same to the last bit."""
    place = Path(folder)
    about = FOLDER.read(place)
    tensors = FOLDER.tensors(place)
    try:
        made = _built(about, {n.removeprefix(BACKBONE): t for n, t in tensors.items() if n.startswith(BACKBONE)})
        made.load_state_dict({name: value for name, value in tensors.items() if not name.startswith(BACKBONE)})
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise FOLDER.broken(place, f"{CONFIG} does not fit together: {error}") from None
    except RuntimeError:  # torch's own, where names or shapes differ
        raise FOLDER.broken(place, f"{FOLDER.weights} holds other sizes than {CONFIG}") from None
    wrong = next((n for n, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())), None)
    if wrong is not None:
        raise FOLDER.broken(place, f"{FOLDER.weights} holds values in '{wrong}' that are not finite")
    return made.eval().requires_grad_(False)


def _built(about: dict[str, Any], changed: dict[str, Tensor]) -> Bottleneck:
    view = about["model"]["view"]
    rows, columns = about["grid"]
    base = Base(about["model"]["name"], about["model"]["identity"], _view(view) if view else None, changed)
    made = Bottleneck(
        [BottleneckConcept(**one) for one in about["concepts"]],
        about["classes"],
        about["values"],
        about["channels"],
        LOCATORS[about["locator"]["kind"]](**about["locator"]["settings"]),
        (rows, columns),
        base,
        about["training"],
    )
    made.edits = [_edit(one) for one in about["edits"]]
    return made


def _stored(edit: Edit) -> dict[str, Any]:
    """Return an edit without infinite bounds, which JSON cannot hold: an open side is null."""
    return {name: None if value in (-math.inf, math.inf) else value for name, value in asdict(edit).items()}


def _edit(stored: dict[str, Any]) -> Edit:
    bounds = {n: side if stored[n] is None else stored[n] for n, side in (("low", -math.inf), ("high", math.inf))}
    return Edit(**{**stored, **bounds})


def _view(stored: dict[str, Any]) -> Preprocess:
    given: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in stored.items()}
    return Preprocess(**given)
