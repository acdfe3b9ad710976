from __future__ import annotations

import subprocess
import sys

import pytest

from conceptlens.io.torchvision_operators import mend_torchvision

pytestmark = pytest.mark.process

# Where torchvision's own operators load, nobody can declare them before it: torchvision ends the process.
where_mended = pytest.mark.skipif(mend_torchvision() is None, reason="torchvision's own operators load")

_FOREIGN = """
import torch
own = torch.library.Library("torchvision", "DEF")
own.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
own.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
_ABSENT = "import importlib.util; importlib.util.find_spec = lambda name: None"
_MEND = "from conceptlens.io.torchvision_operators import mend_torchvision; mended = mend_torchvision()"


def run(*lines: str) -> str:
    code = "\n".join(lines)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_loads_with_what_is_built_on_it_and_is_mended_once() -> None:
    twice = "print(mend_torchvision() is mended)"
    late = "mend_torchvision.cache_clear(); print(mend_torchvision())"  # a loaded torchvision stays
    assert run(_MEND, twice, "import torchvision, timm, open_clip, transformers", late).split() == ["True", "None"]


@where_mended
def test_what_somebody_else_has_mended_stays() -> None:
    assert run(_FOREIGN, _MEND, "print(mended)", "import torchvision") == "None"


@pytest.mark.slow
@where_mended
def test_what_somebody_else_has_left_out_is_added() -> None:
    partly = _FOREIGN.replace('own.define("nms', '#("nms')
    assert run(partly, _MEND, "print(hasattr(torch.ops.torchvision, 'nms'))", "import torchvision") == "True"


def test_nothing_is_declared_where_there_is_no_torchvision() -> None:
    assert run(_ABSENT, _MEND, "import torch", "print(mended, hasattr(torch.ops.torchvision, 'nms'))") == "None False"
