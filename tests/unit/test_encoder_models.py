"""Encoders without a head: their cells, questions along a direction, LoCE; or a sentence that says what to give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import conceptlens as cl

WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SIZE = {"image_size": 64, "patch_size": 8}

# How to build each, how its vector is read where it gives none, and its default layer.
ENCODERS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Tensor] | None, str]] = {
    "DINOv2": (
        lambda: hf.Dinov2Model(hf.Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, **SIZE)),
        None, "encoder.layer.1.norm1",
    ),
    "DINOv3": (
        lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**WIDTH, **SIZE, num_register_tokens=2)),
        None, "model.layer.1.norm1",
    ),
    "I-JEPA": (
        lambda: hf.IJepaModel(hf.IJepaConfig(**WIDTH, **SIZE)),
        lambda found: found.last_hidden_state.mean(1), "layernorm",
    ),
    "SAM": (
        lambda: hf.SamVisionModel(hf.SamVisionConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_dim=48, **SIZE, output_channels=16,
            window_size=4, global_attn_indexes=[1],
        )),
        lambda found: found.last_hidden_state.mean((2, 3)), "vision_encoder",
    ),
    "CLIP": (
        lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**WIDTH, **SIZE, projection_dim=24)),
        None, "vision_model.encoder.layers.1.layer_norm1",
    ),
    "SigLIP": (lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**WIDTH, **SIZE)), None, "post_layernorm"),
}  # fmt: skip


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ENCODERS)
def test_cells_directions_and_local_embeddings(name: str) -> None:
    torch.manual_seed(0)
    build, output, layer = ENCODERS[name]
    model = cl.Backbone(build().eval(), name, input_size=(64, 64), output=output, task="embedding" if output else None)
    observation = model.observe(images())
    assert (model.known_task, observation.layer) == ("embedding", layer)
    assert observation.feature().shape[2:] == (8, 8)

    direction = torch.randn(observation.embedding.shape[1], generator=torch.Generator().manual_seed(2))
    found = cl.cam(observation, cl.Concept(direction=direction), rule="grad_cam", signed=True)
    (expected,) = torch.autograd.grad(
        (observation.embedding @ direction).sum(), observation.layer_output().raw, retain_graph=True
    )
    weights = observation.layer_output().grid.read(expected).mean((2, 3), keepdim=True)
    by_hand = (weights * observation.feature()).sum(1)
    assert torch.allclose(found.maps[:, 0], by_hand, atol=1e-4 * float(by_hand.abs().max()))

    masks = torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    masks[..., :32, :32] = True
    assert bool(cl.loce(observation, masks).maps.isfinite().all())


@pytest.mark.parametrize("name", [name for name, (_, output, _) in ENCODERS.items() if output])
def test_an_encoder_that_gives_no_vector_says_how_to_read_one(name: str) -> None:
    observation = cl.Backbone(ENCODERS[name][0](), name, input_size=(64, 64)).observe(images())
    with pytest.raises(cl.InputError, match=r"no embedding.*output=lambda found: found\.last_hidden_state\.mean\(1\)"):
        _ = observation.embedding


class TestMaskedAutoencoder:
    """It drops and shuffles patches at random, unless all of them are kept and told in which order."""

    def model(self, mask_ratio: float) -> cl.Backbone:
        torch.manual_seed(0)
        module = hf.ViTMAEModel(hf.ViTMAEConfig(**WIDTH, **SIZE, mask_ratio=mask_ratio)).eval()
        return cl.Backbone(
            module,
            "MAE",
            input_size=(64, 64),
            task="embedding",
            output=lambda found: found.last_hidden_state[:, 1:].mean(1),
        )

    @pytest.mark.parametrize("mask_ratio", [0.75, 0.0])
    def test_shuffled_patches_are_refused(self, mask_ratio: float) -> None:
        with pytest.raises(cl.InputError, match="not the same for the same image twice"):
            self.model(mask_ratio).observe(images(), layers="layernorm")

    def test_an_answer_about_patches_drawn_at_random_is_refused(self) -> None:
        with pytest.raises(cl.InputError, match=r"another answer for the same image twice.*noise="):
            self.model(0.75).observe(images())

    def test_all_patches_in_order(self) -> None:
        model = self.model(0.0)
        observation = model.observe(images(), noise=torch.arange(64.0).expand(2, -1))
        assert observation.layer == "layernorm"
        kept = observation.feature()
        changed = images()
        changed[:, :, 40:48, 8:16] += 2
        moved = model.observe(changed, noise=torch.arange(64.0).expand(2, -1)).feature() - kept
        assert divmod(int(moved[0].norm(dim=0).argmax()), 8) == (5, 1)


def test_naflex_patches_are_no_image() -> None:
    """SigLIP 2 with NaFlex takes patches, whose places only their own shapes tell."""
    module = hf.Siglip2VisionModel(hf.Siglip2VisionConfig(**WIDTH, num_patches=64, patch_size=8))
    model = cl.Backbone(module, "SigLIP 2", input_size=(64, 64))
    with pytest.raises(cl.InputError, match="missing a required argument: 'pixel_attention_mask'"):
        model.observe(images())
    with pytest.raises(cl.InputError, match=r"shape \(2, 64, 192\).*expected 3 colours first"):
        model.observe(
            torch.rand(2, 64, 192), pixel_attention_mask=torch.ones(2, 64), spatial_shapes=torch.tensor([[8, 8]] * 2)
        )
