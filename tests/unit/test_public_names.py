"""The public names: those of the documentation, loaded when first used, without PyTorch until then."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import conceptlens as cl
from conceptlens.cli import app
from tolerance import assert_agree

PAGE = Path(__file__).parents[2] / "docs" / "api" / "index.md"


def test_the_documentation_lists_exactly_the_public_names() -> None:
    listed = re.findall(r"^\| \[?`cl\.(\w+)`", PAGE.read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(cl.__all__)
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize("name", cl.__all__)
def test_every_name_loads(name: str) -> None:
    assert getattr(cl, name) is not None
    assert name in dir(cl)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(cl.__file__).read_text("utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported | {"__version__"} == set(cl.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'conceptlens' has no attribute 'gradcam'; it has: "):
        cl.gradcam  # noqa: B018  # pyright: ignore


def test_the_import_alone_loads_no_torch() -> None:
    code = "import conceptlens, sys; print([m for m in ('torch', 'numpy', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_wrong_type_is_a_type_error_and_a_value_error() -> None:
    assert issubclass(cl.InputTypeError, (cl.InputError,))
    assert issubclass(cl.InputTypeError, TypeError)
    assert issubclass(cl.InputError, ValueError)
    assert not issubclass(cl.InputError, TypeError)


def test_the_command_line_states_its_version() -> None:
    found = CliRunner().invoke(app, ["--version"])
    assert (found.exit_code, found.output) == (0, f"conceptlens {cl.__version__}\n")


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(3, 6, 8, 8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return torch.nn.Sequential(*layers, torch.nn.Linear(6, 4))


class TestHeatmaps:
    def test_one_map_for_each_image_at_the_size_of_the_batch(self) -> None:
        batch = torch.rand(3, 3, 48, 64)
        model = cl.Backbone(small(), "small", channels_last=False)
        for targets in (None, 2, [0, 1, 3], torch.tensor([0, 1, 3]), np.array([0, 1, 3]), cl.Contrast(1)):
            maps = cl.heatmaps(model, batch, targets)
            assert isinstance(maps, np.ndarray)
            assert (maps.shape, maps.dtype) == ((3, 48, 64), np.float32)
            expected = cl.cam(model.observe(batch), targets).maps
            assert_agree(maps, cl.render.upsample(expected, 48, 64)[:, 0].numpy())

    def test_a_plain_module_a_rule_a_layer_and_signs(self) -> None:
        batch = torch.rand(2, 3, 32, 32)
        assert cl.heatmaps(small(), batch).shape == (2, 32, 32)
        signed = cl.heatmaps(small(), batch, 1, rule="hires_cam", layer="0", signed=True)
        assert float(signed.min()) < 0

    def test_batches_of_a_loader_with_their_labels(self) -> None:
        images, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=2)
        module = small()
        found = np.concatenate([cl.heatmaps(module, batch, batch[1]) for batch in loader])
        np.testing.assert_allclose(found, cl.heatmaps(module, images, labels), atol=1e-6)

    def test_what_it_cannot_draw_is_refused(self) -> None:
        batch = torch.rand(2, 3, 32, 32)
        with pytest.raises(cl.InputError, match="2 questions were given, and heatmaps returns one map for each image"):
            cl.heatmaps(small(), batch, [cl.Logit(1), cl.Logit(2)])
        with pytest.raises(cl.InputError, match="3 classes were given for 2 images"):
            cl.heatmaps(small(), batch, [1, 2, 3])
        with pytest.raises(TypeError, match=r"a str was given; expected a torch\.nn\.Module"):
            cl.heatmaps("resnet18", batch)  # pyright: ignore[reportArgumentType]
        with pytest.raises(cl.InputError, match="no layer 'layer9'"):
            cl.heatmaps(small(), batch, layer="layer9")
