"""Networks in bfloat16 and with channels last: asked for by name, near the same answer, told apart in a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from skimage import data
from typer.testing import CliRunner

import conceptlens as cl
from conceptlens.cli import app
from conceptlens.explainer.photo_run import ExplainOptions
from conceptlens.explainer.runs.explain_settings import run_settings


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(data.chelsea())


@pytest.fixture(scope="module")
def plain(photo: Image.Image) -> cl.Observation[Any]:
    return cl.load_model().observe(photo)


def test_autocast_runs_the_network_in_bfloat16_and_finds_nearly_the_same(
    photo: Image.Image, plain: cl.Observation[Any]
) -> None:
    seen = cl.load_model(autocast=True).observe(photo)
    assert seen.logits.dtype is torch.bfloat16
    assert int(seen.logits.argmax()) == int(plain.logits.argmax())
    rounded, exact = (cl.cam(one).maps.float() for one in (seen, plain))
    assert 0 < float((rounded - exact).abs().max()) < 0.1 * float(exact.max())
    names = [set(cl.explain(one).labels[0][:3]) for one in (seen, plain)]
    assert len(names[0] & names[1]) >= 2


def test_channels_last_changes_the_memory_and_numbers_by_rounding_alone(
    photo: Image.Image, plain: cl.Observation[Any]
) -> None:
    model = cl.load_model(channels_last=True)
    convolution = next(one for one in model.module.modules() if isinstance(one, torch.nn.Conv2d))
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model.observe(photo).logits, plain.logits, rtol=1e-3, atol=1e-3)


def test_a_store_does_not_go_on_in_another_arithmetic() -> None:
    settings = [run_settings(cl.load_model(autocast=one), ExplainOptions(), False) for one in (False, True)]
    assert settings[0] != settings[1]
    assert "autocast" not in settings[0]


@pytest.mark.parametrize("command", ["explain", "contrast"])
def test_commands_take_both(command: str, photo: Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "cat.png")
    given = [command, str(tmp_path / "cat.png"), "--json", "--autocast", "--channels-last"]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["images"]
    logit = found["predicted"]["logit"]
    assert "cat" in found["predicted"]["name"]
    assert logit == float(torch.tensor(logit).bfloat16()), "a logit of more digits than bfloat16 has"
