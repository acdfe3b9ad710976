"""The public names: those of the documentation, loaded when first used, without PyTorch until then."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import conceptlens as cl
from conceptlens.cli import app
from conceptlens.localization.evaluate_localization import evaluate_localization
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


ENTRIES = {
    "cam": cl.cam,
    "explain": cl.explain,
    "compete": lambda given: cl.compete(given, "stripes"),
    "sweep": cl.sweep,
    "loce": lambda given: cl.loce(given, np.ones((32, 32), bool)),
    "ce_fam": lambda given: cl.ce_fam(given, None),  # pyright: ignore[reportArgumentType]
}


class TestWrongTypes:
    @pytest.mark.parametrize("name", ENTRIES)
    @pytest.mark.parametrize("given", ["cat.png", torch.rand(1, 3, 32, 32), small()], ids=["path", "tensor", "module"])
    def test_what_is_no_observation(self, name: str, given: object) -> None:
        message = rf"a {type(given).__name__} was given; expected an Observation: model\.observe\(images\)"
        with pytest.raises(cl.InputTypeError, match=message):
            ENTRIES[name](given)  # pyright: ignore[reportArgumentType]

    def test_layers(self) -> None:
        observation = cl.Backbone(small(), "small").observe(torch.rand(1, 3, 32, 32))
        with pytest.raises(cl.InputTypeError, match="a layer is given as 3; expected its name"):
            cl.cam(observation, layer=3)  # pyright: ignore[reportArgumentType]
        with pytest.raises(cl.InputTypeError, match="a layer is given as 3; expected its name"):
            cl.loce(observation, np.ones((32, 32), bool), [3])  # pyright: ignore[reportArgumentType]
        with pytest.raises(cl.InputTypeError, match="layer is 3; expected the name of a layer, such as '1'"):
            cl.sweep(observation, layer=3)  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize("size", ["x", "ab", 2.5, (1, 2, 3), (4.5, 4)])
    def test_sizes(self, size: object) -> None:
        found = cl.Explanation.from_maps(np.ones((1, 4, 4)), "tabby")
        with pytest.raises(cl.InputTypeError, match=r"size is .*; expected an integer, or \(rows, columns\)"):
            found.upsampled(size)  # pyright: ignore[reportArgumentType]

    def test_models_data_and_records(self, tmp_path: Path) -> None:
        given: Any = "timm:resnet50"
        refused: dict[str, Callable[[], object]] = {
            "a str was given as the model; expected a Backbone": lambda: cl.embed(
                cl.open_set("drawn:1"), given, tmp_path
            ),
            "as the model; expected a Backbone: cl.load_model": lambda: cl.fit_ce_fam(given, given, tmp_path, tmp_path),
            r"cl\.load_model\(name\) or cl\.Backbone": lambda: cl.fit_loc_cbm(given, given, tmp_path),
            "a str was given as the data; expected a data set": lambda: cl.embed("drawn:1", given, tmp_path),  # pyright: ignore[reportArgumentType]
            r"expected a data set with masks: cl\.open_set": lambda: next(evaluate_localization(given, {})),
            "methods are given as str; expected a dictionary": lambda: next(
                evaluate_localization(cl.open_set("drawn:1"), given)
            ),
            "a str was given as the data; expected bool masks, a data set": lambda: cl.evaluate(
                np.ones((1, 4, 4)), given
            ),
            "a str was given to combine; expected a list": lambda: cl.combine(given),
            "a NoneType was given to combine": lambda: cl.combine([None]),  # pyright: ignore[reportArgumentType]
            "the photo is given as str; expected a PIL image": lambda: cl.overlay(given, np.ones((2, 2))),
            "image is 'timm:resnet50'; expected the index": lambda: cl.Explanation.from_maps(
                np.ones((1, 4, 4)), "a"
            ).of(given),
        }
        for message, call in refused.items():
            with pytest.raises(cl.InputTypeError, match=message):
                call()

    def test_names_of_models_and_data_sets(self) -> None:
        with pytest.raises(cl.InputTypeError, match=r"the module Identity was given .* use cl\.Backbone\(net, "):
            cl.load_model(torch.nn.Identity())  # pyright: ignore[reportArgumentType]
        with pytest.raises(cl.InputTypeError, match="a int was given as the model; expected SOURCE:NAME"):
            cl.load_model(3)  # pyright: ignore[reportArgumentType]
        for opened in (cl.open_set, cl.open_classes):
            with pytest.raises(cl.InputTypeError, match="a int was given as the data set; expected a text, NAME or"):
                opened(3)  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize("images", [3, [None], cl.Explanation.from_maps(np.ones((1, 4, 4)), "tabby")], ids=repr)
    def test_images_of_a_report(self, images: object, tmp_path: Path) -> None:
        found = cl.Explanation.from_maps(np.ones((1, 4, 4)), "tabby")
        with pytest.raises(cl.InputTypeError, match="was given as the images; expected an Observation, or photos"):
            cl.report(tmp_path / "page.html", images, found)  # pyright: ignore[reportArgumentType]


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
