"""What every test needs: torchvision that loads, one thread, a cache of its own, examples that come again.

The layers of the default model, which most commands load anew, are found once in each process, and so are the
parameters of the commands.

And what several files ask for: drawn birds, and a bottleneck that knows them.
"""

from __future__ import annotations

import hashlib
import os
import signal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import settings

from conceptlens.io.torchvision_operators import mend_torchvision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    import conceptlens as cl
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.model.model_input import ModelInput

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


@pytest.fixture(scope="session", autouse=True)
def _interrupts_are_heard() -> None:
    """Hear Ctrl-C as on a terminal, also where the tests run in the background of a shell, which ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _default_model_is_probed_once() -> Iterator[None]:
    """Give each further copy of the default model, with the same weights and no hooks, what was found in the first.

    The experiment takes two seconds, and a command that is called here loads the model as a new process would.
    """
    from conceptlens.model import backbone
    from conceptlens.model.probe import Anatomy
    from conceptlens.model.zoo import DEFAULT_MODEL

    known: dict[object, Anatomy] = {}
    probe = backbone.anatomy

    def found_once(module: nn.Module, given: ModelInput, *read: Any, known_as: Any) -> Anatomy:
        def found() -> Anatomy:
            return probe(module, given, *read, known_as=known_as)

        changed = any(
            part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part) for part in module.modules()
        )
        if known_as[0] != DEFAULT_MODEL or given.others or changed:
            return found()
        weights = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in module.state_dict().values()))
        images = given.images
        seen = tuple(images.shape), images.dtype, images.device, float(images.min()), float(images.max())
        key = repr(module), weights.digest(), seen, read[1:], known_as
        if key not in known:
            known[key] = found()
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "anatomy", found_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def _commands_are_built_once() -> Iterator[None]:
    """Build the commands once: a `CliRunner` reads the parameters of all twenty anew for each call."""
    from typer.main import get_command

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", cache(get_command))
        yield


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
