"""Folders of a trained piece: weights as safetensors, and a JSON description whose every field is checked by kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from conceptlens.io.atomic import replacing
from conceptlens.io.errors import InputError
from conceptlens.io.json_text import json_text

CONFIG = "config.json"
KINDS: dict[str, Callable[[Any], bool]] = {
    "a text": lambda value: isinstance(value, str),
    "a number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "a whole number": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "true or false": lambda value: isinstance(value, bool),
    "an object": lambda value: isinstance(value, dict),
    "a list of texts": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    "a list of whole numbers": lambda value: isinstance(value, list) and all(type(one) is int for one in value),
    "a list of objects": lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value),
}


@dataclass(frozen=True)
class FolderFormat:
    """The format of one kind of folder.

    Attributes:
        piece: What the folder holds, for messages, such as `branch`.
        weights_file: The name of its safetensors file.
        made_by: The command that makes it, for messages.
        version: The version of the format that is written, and the only one that is read.
        fields: The kind of each required field of the description, one of `KINDS`, by its path, such as
            `branch.layers`.
    """

    piece: str
    weights_file: str
    made_by: str
    version: int
    fields: Mapping[str, str]

    def write(self, folder: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Write the weights and, last, the description, each atomically.

        Args:
            folder: The folder, made where it is missing.
            tensors: Weights by name.
            about: The description; format and versions are added.
        """
        whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        with replacing(folder / self.weights_file) as temporary:
            save_file(whole, temporary)
        packages = ("conceptlens", "torch", "safetensors")
        config = {"format": self.version, **about, "versions": {name: version(name) for name in packages}}
        with replacing(folder / CONFIG) as temporary:
            temporary.write_text(json_text(config, indent=1, allow_nan=True), "utf-8")

    def read_config(self, folder: Path) -> dict[str, Any]:
        """Return the description; refused with the field that is missing or of another kind."""
        try:
            config = json.loads((folder / CONFIG).read_text("utf-8"))
        except OSError as error:
            raise self.missing_error(
                folder, f"{CONFIG} cannot be read: {error.strerror or type(error).__name__}"
            ) from None
        except ValueError:
            raise self.missing_error(folder, f"{CONFIG} is no JSON") from None
        number = self._field(folder, config, "format", "a whole number", self.missing_error)
        if number > self.version:
            raise InputError(
                f"{folder / CONFIG} has format {number}, and this version reads format {self.version}; "
                "update it with pip install --upgrade conceptlens"
            )
        if number < self.version:
            raise InputError(
                f"{folder / CONFIG} has the old format {number}, and this version reads format {self.version}; "
                f"make the {self.piece} again with {self.made_by}"
            )
        for path, kind in self.fields.items():
            self._field(folder, config, path, kind, self.damaged_error)
        return config

    def read_weights(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights by name."""
        try:
            return load((folder / self.weights_file).read_bytes())
        except OSError as error:
            raise self.damaged_error(
                folder, f"{self.weights_file} cannot be read: {error.strerror or type(error).__name__}"
            ) from None
        except SafetensorError:
            raise self.damaged_error(folder, f"{self.weights_file} is damaged or cut short") from None

    def missing_error(self, folder: Path, reason: str) -> InputError:
        """Return the error for a folder that is something else."""
        return InputError(f"{folder} holds no {self.piece} ({reason}); give a folder made by {self.made_by}")

    def damaged_error(self, folder: Path, reason: str) -> InputError:
        """Return the error for a folder that was cut short or changed."""
        return InputError(f"{folder} holds no whole {self.piece} ({reason}); fit it again or copy it again")

    @staticmethod
    def _field(folder: Path, config: Any, path: str, kind: str, refused: Callable[[Path, str], InputError]) -> Any:
        """Return a field by its path, such as `branch.layers`, if it is of the kind that is expected."""
        value = config
        for name in path.split("."):
            if not isinstance(value, dict) or name not in value:
                raise refused(folder, f"{CONFIG} lacks {path}; expected {kind}")
            value = value[name]
        if not KINDS[kind](value):
            raise refused(folder, f"in {CONFIG}, {path} is {value!r:.40}; expected {kind}")
        return value
