"""Models that cannot be had: one sentence, at once."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from conceptlens.io.errors import InputError

# How long the hub may take to answer a knock, in seconds.
PATIENCE = 5.0
_LOCK = threading.RLock()
# What torch asks whether it may unpickle.
_UNPICKLING = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")


@contextmanager
def fetching(name: str, hub: bool = True, folder: bool = False) -> Iterator[None]:
    """Load `name` inside; whatever a library or its network raises becomes one sentence.

    While the host of Hugging Face cannot be reached, its client is held offline: it then reads its cache or fails at
    once, instead of trying again for a minute. With `hub=False` that host is never contacted. Nothing is unpickled,
    whatever a library asks of torch. All that holds for the whole process, so threads take turns.

    Args:
        name: What the model is called in the message.
        hub: Whether the host of Hugging Face may be contacted.
        folder: Whether the model lies in a folder of this machine, so that no network can help.

    Raises:
        InputError: Whatever was raised within, in one sentence.
    """
    from huggingface_hub import constants

    with _LOCK:
        found = constants.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = found or not hub or not reachable(constants.ENDPOINT)
        try:
            with _own_logging(), _weights_only():
                yield
        except InputError:
            raise
        except Exception as error:  # libraries and their networks raise their own kinds
            reason = first_sentence(error)
            if hub and constants.HF_HUB_OFFLINE:
                reason += f"; {constants.ENDPOINT} is {'switched off by HF_HUB_OFFLINE' if found else 'out of reach'}"
            check = "what is in the folder" if folder else "the name and the network"
            raise InputError(
                f"{name} could not be had ({reason}); check {check}, or give a file with weights=, or use "
                "pretrained=False"
            ) from error
        finally:
            constants.HF_HUB_OFFLINE = found


def first_sentence(error: Exception) -> str:
    """Return the kind of an error and the first sentence of what it says."""
    said = str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def reachable(address: str) -> bool:
    """Whether the host of `address` takes a connection; behind a proxy that is not ours to know, so yes."""
    parts = urlsplit(address)
    if {parts.scheme, "all"} & set(getproxies()):
        return True
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=PATIENCE):
            return True
    except OSError:
        return False


@contextmanager
def _own_logging() -> Iterator[None]:
    """Keep libraries that log through the root logger (open_clip) from configuring it for the whole process."""
    silence = logging.NullHandler()
    logging.getLogger().addHandler(silence)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(silence)


@contextmanager
def _weights_only() -> Iterator[None]:
    """Have torch unpickle nothing, whatever a library asks of it: torchvision still asks for it."""
    found = {name: os.environ.pop(name, None) for name in _UNPICKLING}
    os.environ[_UNPICKLING[0]] = "1"
    try:
        yield
    finally:
        del os.environ[_UNPICKLING[0]]
        os.environ.update({name: value for name, value in found.items() if value is not None})
