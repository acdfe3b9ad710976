"""Silencing a library's warnings while several threads do so at once."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class _Filters:
    """How many threads are within, and the filters that the last one puts back: they are process-wide."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    count: int = 0
    found: warnings.catch_warnings[None] = field(default_factory=warnings.catch_warnings)


_FILTERS = _Filters()


@contextmanager
def quiet_warnings(message: str = "", category: type[Warning] = Warning, module: str = "") -> Iterator[None]:
    """Ignore some warnings within; `warnings.catch_warnings` would leave its filters behind where two threads overlap.

    Args:
        message: A regular expression that the start of the text matches.
        category: The class of the warnings.
        module: A regular expression that the start of the module's name matches.
    """
    with _FILTERS.lock:
        if _FILTERS.count == 0:
            _FILTERS.found = warnings.catch_warnings()
            _FILTERS.found.__enter__()
        warnings.filterwarnings("ignore", message, category, module)
        _FILTERS.count += 1
    try:
        yield
    finally:
        with _FILTERS.lock:
            _FILTERS.count -= 1
            if _FILTERS.count == 0:
                _FILTERS.found.__exit__(None, None, None)
