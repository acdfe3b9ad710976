from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

_FOREIGN = """
import torch
own = torch.library.Library("torchvision", "DEF")
own.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
own.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
_ABSENT = "import importlib.util; importlib.util.find_spec = lambda name: None"
_MEND = "from conceptlens.model.torchvision_operators import mend_torchvision; mended = mend_torchvision()"


def run(*lines: str) -> str:
    code = "\n".join(lines)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_loads_with_what_is_built_on_it() -> None:
    assert run(_MEND, "import torchvision, timm, open_clip, transformers", "print('loaded')") == "loaded"


def test_mending_twice_is_mending_once() -> None:
    assert run(_MEND, "print(mend_torchvision() is mended)", "import torchvision") == "True"


def test_what_somebody_else_has_mended_stays() -> None:
    assert run(_FOREIGN, _MEND, "print(mended)", "import torchvision") == "None"


def test_what_somebody_else_has_left_out_is_added() -> None:
    partly = _FOREIGN.replace('own.define("nms', '#("nms')
    assert run(partly, _MEND, "print(hasattr(torch.ops.torchvision, 'nms'))", "import torchvision") == "True"


def test_a_loaded_torchvision_stays() -> None:
    assert run(_MEND, "mend_torchvision.cache_clear()", "import torchvision", "print(mend_torchvision())") == "None"


def test_nothing_is_declared_where_there_is_no_torchvision() -> None:
    assert run(_ABSENT, _MEND, "import torch", "print(mended, hasattr(torch.ops.torchvision, 'nms'))") == "None False"


@pytest.mark.parametrize("loads", [True, False])
def test_operators_are_declared_only_where_the_compiled_ones_do_not_load(loads: bool) -> None:
    pretend = (
        f"import conceptlens.model.torchvision_operators as o; o._compiled_operators_load = lambda origin: {loads}"
    )
    found = run(pretend, _MEND, "import torch", "print(mended is None, hasattr(torch.ops.torchvision, 'nms'))")
    assert found.split() == (["True", "False"] if loads else ["False", "True"])


def test_a_file_that_is_no_library_does_not_load() -> None:
    code = """
import tempfile
from pathlib import Path
from conceptlens.model.torchvision_operators import _compiled_operators_load
folder = Path(tempfile.mkdtemp())
print(_compiled_operators_load(str(folder / "__init__.py")))
(folder / "_C.so").write_bytes(b"no library")
print(_compiled_operators_load(str(folder / "__init__.py")))
"""
    assert run(code).split() == ["False", "False"]
