"""What every test needs: torchvision that loads, one thread, a cache of its own, examples that come again.

And what several files ask for: drawn birds, and a bottleneck that knows them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

from conceptlens.io.torchvision_operators import mend_torchvision

if TYPE_CHECKING:
    import conceptlens as cl
    from conceptlens.bottleneck.module import Bottleneck

mend_torchvision()

# The same examples every time, and no deadline: what is built on first use must not make a test fail.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["CONCEPTLENS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """Set torch's threads: one, since small models on many threads wait more than they compute, or as many as asked."""
    torch.set_num_threads(int(os.environ.get("CONCEPTLENS_TEST_THREADS", "1")))


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos of `coloured_birds`, in the layout of CUB-200-2011."""
    from coloured_birds import write_birds

    return write_birds(tmp_path_factory.mktemp("birds"))


@pytest.fixture(scope="module")
def bird_model() -> cl.Backbone:
    """A network that sees their colours."""
    from coloured_birds import eye

    return eye()


@pytest.fixture(scope="module")
def spotter(bird_model: cl.Backbone, birds: Path) -> Bottleneck:
    """A bottleneck whose maps are those colours."""
    from coloured_birds import birds_seen

    return birds_seen(bird_model, birds)
