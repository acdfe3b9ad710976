"""What every test needs: torchvision that loads, one thread, a cache of its own, examples that come again."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

from conceptlens.operators import mend_torchvision

mend_torchvision()

# The same examples every time, and no deadline: what is built on first use must not make a test fail.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["CONCEPTLENS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small models on many threads wait more than they compute."""
    torch.set_num_threads(1)
