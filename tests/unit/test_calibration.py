from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import conceptlens as cl
from conceptlens.cams.concept_target import similarity
from conceptlens.explainer.calibration import ScoreCalibration, find_calibration, fit_calibration

NAMES = ("cat", "dog", "car", "tree")


@pytest.fixture(scope="module")
def model() -> cl.Backbone:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
    )
    return cl.Backbone(module, "tiny", class_names=NAMES, input_size=(32, 32))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(60, 3, 32, 32, generator=generator) * torch.rand(60, 3, 1, 1, generator=generator) * 2


def test_unusual_is_the_z_score_over_the_reference_photos(model: cl.Backbone, images: torch.Tensor) -> None:
    calibration = fit_calibration(model, (model.observe(part) for part in images.split(20)))
    texts = model.language.encode_text(["a photo of a cat", "a photo of a lorry"])
    scores = similarity(model.observe(images).embedding.detach(), texts, model.language)
    z_scores = calibration.z_scores(scores, texts, model.language)
    expected = (scores - scores.mean(0)) / scores.std(0)
    assert torch.allclose(z_scores, expected, atol=0.02)
    assert torch.allclose(z_scores.mean(0), torch.zeros(2), atol=1e-3)


def test_a_reference_survives_its_file(model: cl.Backbone, images: torch.Tensor, tmp_path: Path) -> None:
    calibration = fit_calibration(model, [model.observe(images)])
    again = ScoreCalibration.load(calibration.save(tmp_path / "sub" / "tiny.safetensors"))
    texts = model.language.encode_text(["a photo of a cat"])
    scores = torch.tensor([[1.0], [0.0]])
    assert again.count == 60
    assert torch.allclose(
        again.z_scores(scores, texts, model.language), calibration.z_scores(scores, texts, model.language), rtol=2e-3
    )
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["tiny.safetensors"]


def test_it_is_found_by_the_weights_and_not_by_the_name(
    model: cl.Backbone, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCEPTLENS_CACHE", str(tmp_path))
    assert find_calibration(model) is None
    calibration = fit_calibration(model, [model.observe(images)])
    calibration.save(tmp_path / "reference" / f"{calibration.identity}.safetensors")
    assert find_calibration(model) is not None
    other = nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
    )
    assert find_calibration(cl.Backbone(other, "tiny", class_names=NAMES, input_size=(32, 32))) is None


def test_too_few_photos_and_other_files_are_refused(model: cl.Backbone, images: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(cl.InputError, match="5 photos were given; a calibration needs at least 30"):
        fit_calibration(model, [model.observe(images[:5])])
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"not tensors")
    with pytest.raises(cl.InputError, match="is no calibration"):
        ScoreCalibration.load(wrong)


def test_the_default_model_has_a_shipped_reference() -> None:
    model = cl.load_model()
    calibration = find_calibration(model)
    assert calibration is not None
    assert calibration.count == 1000
    assert calibration.model == "timm:tf_efficientnet_lite0"
