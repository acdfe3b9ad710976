"""Models that cannot be had: one sentence, at once."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from conceptlens.io.errors import InputError

# How long the hub may take to answer a knock, in seconds.
PATIENCE = 5.0


@contextmanager
def fetching(name: str, hub: bool = True) -> Iterator[None]:
    """Load `name` inside; whatever a library or its network raises becomes one sentence.

    While the host of Hugging Face cannot be reached, its client is held offline: it then reads its cache or fails at
    once, instead of trying again for a minute. With `hub=False` that host is never contacted.

    Args:
        name: What the model is called in the message.
        hub: Whether the host of Hugging Face may be contacted.

    Raises:
        InputError: Whatever was raised within, in one sentence.
    """
    from huggingface_hub import constants

    found = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = found or not hub or not reachable(constants.ENDPOINT)
    try:
        with _own_logging():
            yield
    except InputError:
        raise
    except Exception as error:  # libraries and their networks raise their own kinds
        first_sentence = str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
        reason = f"{type(error).__name__}: {first_sentence}"
        if hub and constants.HF_HUB_OFFLINE:
            reason += f"; {constants.ENDPOINT} is {'switched off by HF_HUB_OFFLINE' if found else 'out of reach'}"
        raise InputError(
            f"{name} could not be had ({reason}); check the name and the network, or give a file with weights=, "
            "or use pretrained=False"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = found


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
