"""A model in a folder of this machine: what is missing there is said, since no network can help."""

from __future__ import annotations

import re
from pathlib import Path

from conceptlens.io.errors import InputError

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_PREPROCESSING = ("preprocessor_config.json", "processor_config.json", "image_processor_config.json")
_TOKENIZER = ("tokenizer_config.json", "tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")
_ADAPTER = "adapter_config.json"
_PATH = re.compile(r"^([./~\\]|[A-Za-z]:[\\/])|[\\/].*[\\/]")


def is_folder(name: str, called: str) -> bool:
    """Return whether a name is that of a folder here; refuse a path at which there is none.

    Args:
        name: `OWNER/MODEL` or a folder.
        called: What the model is called in the message.

    Raises:
        InputError: It is written as a path, and there is no such folder.
    """
    if Path(name).expanduser().is_dir():
        return True
    if _PATH.search(name):
        raise InputError(
            f"{called} could not be had: there is no folder {name} here; give one that is there, or OWNER/MODEL"
        )
    return False


def check_transformers_folder(folder: Path, called: str, pretrained: bool) -> None:
    """Refuse a folder that lacks what a model of transformers needs beside its weights, or holds a bare adapter.

    Args:
        folder: The folder.
        called: What the model is called in the message.
        pretrained: Whether its weights are wanted.

    Raises:
        InputError: Something is missing; the message says what, and how it is made.
    """
    if (folder / _ADAPTER).is_file():
        raise InputError(
            f"{called} holds an adapter that is not merged ({_ADAPTER}); merge it into the weights first "
            "(peft: model.merge_and_unload()), and save the model and its image processor to a new folder"
        )
    _need(folder, called, ("config.json",), "which says what the model is", "model.save_pretrained(FOLDER) writes it")
    _need(
        folder, called, _PREPROCESSING, "which says how photos are prepared",
        "AutoImageProcessor.from_pretrained(BASE).save_pretrained(FOLDER) writes it, with BASE the model that this one "
        "was trained from; or give its module and a transform of your own to cl.Backbone",
    )  # fmt: skip
    if pretrained:
        _need(folder, called, _WEIGHTS, "its weights", "model.save_pretrained(FOLDER) writes them, or give weights=")


def check_tokenizer(folder: Path, called: str) -> None:
    """Refuse the folder of an image and text pair that has no tokenizer."""
    _need(
        folder, called, _TOKENIZER, "with which it reads texts",
        "AutoTokenizer.from_pretrained(BASE).save_pretrained(FOLDER) writes it",
    )  # fmt: skip


def check_local_dir(name: str, called: str, config: str) -> bool:
    """Return whether a name is `local-dir:FOLDER`, of timm or open_clip; refuse a folder that lacks its configuration.

    Args:
        name: What follows `timm:` or `open_clip:`.
        called: What the model is called in the message.
        config: The file that says what the model is.
    """
    source, _, folder = name.partition(":")
    if source != "local-dir":
        return False
    if not Path(folder).is_dir():
        raise InputError(f"{called} could not be had: there is no folder {folder} here; give one that is there")
    _need(Path(folder), called, (config,), "which says what the model is", "the library that trained it writes it")
    return True


def _need(folder: Path, called: str, names: tuple[str, ...], what: str, remedy: str) -> None:
    if not any((folder / name).is_file() for name in names):
        raise InputError(f"{called} lacks {names[0]}, {what}; {remedy}")
