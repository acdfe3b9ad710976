"""One module runs at a time: the lock under which modules are changed for a forward pass and given back.

A forward pass of this package holds a module in eval mode, frozen, and with hooks. A second thread must not find it so,
nor take that state for the one to give back. The lock is one for the process, since a lock for each module would not
do: two backbones may share a trunk, and random state and forward-mode levels belong to the whole process.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch

# Held by one thread, which may take it again: a module may hold a module that asks questions of its own.
MODULE_LOCK = threading.RLock()

if hasattr(os, "register_at_fork"):  # a child process finds every module as it was, and the lock free
    os.register_at_fork(
        before=MODULE_LOCK.acquire, after_in_parent=MODULE_LOCK.release, after_in_child=MODULE_LOCK.release
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw within from a random state of one's own, and give the process's back.

    Args:
        seed: What the state is made from.
    """
    with MODULE_LOCK, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


Value = TypeVar("Value")


class _OnceUnderLock(Generic[Value]):
    """What `cached_property` makes of a method."""

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        with MODULE_LOCK:
            if self._name not in vars(instance):
                vars(instance)[self._name] = self._compute(instance)
            return vars(instance)[self._name]


def cached_property(compute: Callable[[Any], Value]) -> _OnceUnderLock[Value]:
    """Make a property that is computed once, under `MODULE_LOCK`, however many threads ask at the same time.

    Of `functools.cached_property`, Python 3.11 has a lock of its own, which two threads could take in the other order
    than this one and so wait for each other for ever; later ones let each thread compute.

    Args:
        compute: From the instance to the value.
    """
    return _OnceUnderLock(compute)
