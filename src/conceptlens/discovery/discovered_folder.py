"""Discovered concepts as a folder: directions and maps in safetensors, names in a table, the rest in a checked JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from conceptlens.discovery.concept_count import Candidate
from conceptlens.discovery.concept_names import names_table, read_names
from conceptlens.discovery.concept_places import Place, Suggestion
from conceptlens.io.atomic import write_text
from conceptlens.io.errors import InputError
from conceptlens.io.saved_folder import CONFIG, FolderFormat

if TYPE_CHECKING:
    from torch import Tensor

NAMES = "names.tsv"
FOLDER_FORMAT = FolderFormat(
    "discovered concepts",
    "concepts.safetensors",
    "conceptlens discover",
    1,
    {
        "model.name": "a text",
        "model.identity": "a text",
        "layer": "a text",
        "concepts": "a list of objects",
        "candidates": "a list of objects",
        "chosen": "a whole number",
        "diagnostics": "an object",
        "failures": "a list of objects",
    },
)


def write_folder(fields: Mapping[str, Any], folder: Path) -> Path:
    """Write the attributes of `DiscoveredConcepts`, the description last, and return the folder."""
    hints = [", ".join(one.name for one in each) for each in fields["suggestions"]]
    write_text(folder / NAMES, names_table(fields["names"], hints))
    maps = [place.activations for each in fields["places"] for place in each]
    tensors = {"directions": fields["directions"], "maps": torch.stack(maps) if maps else torch.zeros(0, 1, 1)}
    about: dict[str, Any] = {
        "kind": "conceptlens discovered concepts",
        "model": {"name": fields["model"], "identity": fields["model_identity"]},
        "layer": fields["layer"],
        "concepts": [_about_concept(fields, number) for number in range(len(fields["names"]))],
        "candidates": [asdict(one) for one in fields["candidates"]],
        "chosen": fields["chosen"],
        "diagnostics": dict(fields["diagnostics"]),
        "failures": [{"name": name, "reason": reason} for name, reason in fields["failures"]],
    }
    FOLDER_FORMAT.write(folder, tensors, about)
    return folder


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[int, str], Path]:
    """Return the attributes of `DiscoveredConcepts`, without names; the names of its table; and that table.

    Args:
        folder: A folder of discovered concepts; without the table they have no names.

    Raises:
        InputError: The folder holds no whole concepts, or its table cannot be read.
    """
    about, tensors = FOLDER_FORMAT.read_config(folder), FOLDER_FORMAT.read_weights(folder)
    try:
        fields = _fields(about, tensors)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise FOLDER_FORMAT.damaged_error(folder, f"{CONFIG} does not fit together: {error}") from None
    table = folder / NAMES
    return fields, read_names(table) if table.exists() else {}, table


def _about_concept(fields: Mapping[str, Any], number: int) -> dict[str, Any]:
    return {
        "activity": fields["activity"][number],
        "stability": fields["stability"][number],
        "shared": fields["shared"][number],
        "suggestions": [asdict(one) for one in fields["suggestions"][number]],
        "places": [
            {name: getattr(place, name) for name in ("photo", "row", "column", "activation", "box")}
            for place in fields["places"][number]
        ],
    }


def _fields(about: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    concepts, maps = about["concepts"], iter(tensors["maps"].float())
    directions = tensors["directions"].float()
    count = sum(len(one["places"]) for one in concepts)
    if len(directions) != len(concepts) or len(tensors["maps"]) != count or not bool(directions.isfinite().all()):
        raise InputError(f"{FOLDER_FORMAT.weights_file} holds other sizes than it says, or numbers that are not finite")
    return {
        "directions": directions,
        "names": ("",) * len(concepts),
        "suggestions": tuple(tuple(Suggestion(**given) for given in one["suggestions"]) for one in concepts),
        "places": tuple(
            tuple(Place(**{**place, "box": tuple(place["box"])}, activations=next(maps)) for place in one["places"])
            for one in concepts
        ),
        "activity": tuple(one["activity"] for one in concepts),
        "stability": tuple(one["stability"] for one in concepts),
        "shared": tuple(one["shared"] for one in concepts),
        "model": about["model"]["name"],
        "model_identity": about["model"]["identity"],
        "layer": about["layer"],
        "candidates": tuple(Candidate(**one) for one in about["candidates"]),
        "chosen": about["chosen"],
        "diagnostics": about["diagnostics"],
        "failures": tuple((one["name"], one["reason"]) for one in about["failures"]),
    }
