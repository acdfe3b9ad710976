"""What lies before a layer runs once, however often what follows it runs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.model import forward_mode as responses
from conceptlens.model.forward import forward, trunk_kept
from conceptlens.model.forward_mode import channel_derivatives
from conceptlens.model.model_input import ModelInput
from tolerance import assert_agree


class Shared(nn.Module):
    """One activation serves before and after the layer, works in place, and a block holds the layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.early = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.Hardswish(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(6, 8, 1), nn.Conv2d(8, 8, 3, padding=1))
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        first = self.early(images)
        mean = self.act(first).mean((1, 2, 3), keepdim=True)
        return self.head(self.act(self.block(self.act(first)) + mean)).mean((2, 3))


@pytest.fixture
def net() -> Shared:
    return Shared().eval()


@pytest.mark.parametrize("layer", ["early", "block.0", "block.1", "block", "head"])
def test_answers_are_the_same_with_the_trunk_kept(net: Shared, layer: str) -> None:
    images = torch.randn(2, 3, 6, 7)
    with torch.no_grad():
        wanted = net(images)
    with trunk_kept(net, ModelInput(images), layer):
        again = [forward(net, ModelInput(images), {}) for _ in range(3)]
    for found in again:
        assert_agree(found, wanted)
    assert all("forward" not in vars(part) for part in net.modules())
    with torch.no_grad():
        assert not torch.equal(net(images + 1), wanted)


def test_parts_before_the_layer_run_once(net: Shared) -> None:
    images = torch.randn(1, 3, 6, 7)
    kept = net.block[0].weight
    with trunk_kept(net, ModelInput(images), "block.1"):
        with torch.no_grad():
            kept.fill_(float("nan"))
        assert bool(forward(net, ModelInput(images), {}).isfinite().all())
    with torch.no_grad():
        assert not net(images).isfinite().any()


def test_a_trunk_leaves_no_trace_when_the_work_fails(net: Shared) -> None:
    with pytest.raises(RuntimeError, match="stopped"), trunk_kept(net, ModelInput(torch.randn(1, 3, 6, 7)), "block"):
        raise RuntimeError("stopped")
    assert all("forward" not in vars(part) and not part._forward_hooks for part in net.modules())


@pytest.mark.parametrize("layer", ["early", "block.0", "block"])
def test_responses_do_not_depend_on_how_many_channels_go_at_once(
    net: Shared, layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each is the finite difference that it says it is."""
    model = cl.Backbone(net.double(), "shared", (layer,), task="embedding", channels_last=False, input_size=(6, 7))
    images = torch.randn(1, 3, 6, 7, dtype=torch.float64)
    observation = model.observe(images, [layer, "head"])

    def read(cells: Mapping[str, Tensor]) -> Tensor:
        return cells["head"].flatten(2).mean(2) ** 2

    whole = channel_derivatives(observation, layer, ("head",), read)
    monkeypatch.setattr(responses, "TANGENT_BYTES", 1)
    assert torch.allclose(channel_derivatives(observation, layer, ("head",), read), whole, atol=1e-12)
    raw = observation.layer_output(layer).raw.detach()
    for channel in range(raw.shape[1]):
        shift = torch.zeros_like(raw)
        shift[:, channel] = 1e-6
        with torch.no_grad():
            moved = [
                forward(net, ModelInput(images), {layer: lambda raw, s=sign * shift: raw + s}) ** 2 for sign in (1, -1)
            ]
        change = (moved[0] - moved[1]) / 2e-6 / (raw.shape[2] * raw.shape[3])
        assert torch.allclose(whole[:, channel], change, atol=1e-7)
