"""Gradient checkpointing passed by: parts that a module would run again in the backward pass run once.

Checkpointing saves memory in training. Here it only harms: the layers observed would run a second time without being
watched, and its older form (`use_reentrant=True`) gives no gradient at a layer at all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch.utils import checkpoint as torch_checkpoint

# What `torch.utils.checkpoint.checkpoint` calls in its two forms, under whatever name a library has imported it.
_REENTRANT, _OTHER = "CheckpointFunction", "_checkpoint_without_reentrant_generator"
_LOCK = threading.RLock()


@contextmanager
def passed_checkpoints() -> Iterator[None]:
    """Within, what this thread runs as `torch.utils.checkpoint.checkpoint(part, ...)` is run as `part(...)`.

    Other threads checkpoint as ever.
    """
    owner = threading.get_ident()
    with _LOCK, ExitStack() as stack:
        for name, instead in ((_REENTRANT, _plain_function), (_OTHER, _plain_steps)):
            own = getattr(torch_checkpoint, name, None)
            if own is not None:  # these names are torch's own affair
                setattr(torch_checkpoint, name, instead(own, owner))
                stack.callback(setattr, torch_checkpoint, name, own)
        yield


def _plain_function(own: Any, owner: int) -> type:
    """Return what stands for `CheckpointFunction` meanwhile."""

    class PassedCheckpoint:
        """Runs a part once, with its graph."""

        @staticmethod
        def apply(part: Callable[..., Any], preserve: bool, *inputs: Any) -> Any:
            if threading.get_ident() != owner:
                return own.apply(part, preserve, *inputs)
            return part(*inputs)

    return PassedCheckpoint


def _plain_steps(own: Any, owner: int) -> Callable[..., Iterator[None]]:
    """Return what stands for the generator that wraps a part in the other form: it does nothing before and after."""

    def steps(*inputs: Any, **named: Any) -> Iterator[None]:
        if threading.get_ident() != owner:
            yield from own(*inputs, **named)
        else:
            yield

    return steps
