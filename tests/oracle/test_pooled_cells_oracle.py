"""Jacobians at a layer whose cells are averaged, against one backward pass for each entry, and against the formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import conceptlens as cl
from architectures import ARCHITECTURES, backbone, random_images
from conceptlens.model.pooled_cells import mean_jacobian

AVERAGED = ("timm convnext", "timm convnext2", "timm mambaout", "timm vit2", "timm vit4", "timm vit_relpos",
            "timm resnet", "hf convnext", "hf beit", "hf swin", "hf dinov2 registers", "torchvision swin")  # fmt: skip
GATHERED = ("timm vit", "timm vit3", "hf vit", "hf deit distilled", "hf clip vision", "hf siglip vision",
            "open_clip vit", "open_clip resnet", "torchvision vit")  # fmt: skip


def vector_of(observation: cl.Observation) -> Tensor:
    return observation.class_scores if observation.vector is None else observation.vector  # pyright: ignore


def slow(observation: cl.Observation) -> Tensor:
    """Return the sum over cells of the gradient of each entry of the vector, by one backward pass each."""
    root, output = vector_of(observation), observation.layer_output()
    found = []
    for entry in range(root.shape[1]):
        (raw,) = torch.autograd.grad(root[:, entry].sum(), output.raw, retain_graph=True)
        cells = output.grid.read(raw)
        total = torch.zeros_like(cells[:, :, 0, 0])
        for y in range(output.grid.height):
            for x in range(output.grid.width):
                total = total + cells[:, :, y, x]
        found.append(total)
    return torch.stack(found, 1)


@pytest.mark.parametrize("name", AVERAGED)
def test_it_is_the_sum_of_the_gradients_where_cells_are_averaged(name: str) -> None:
    observation = backbone(name).observe(random_images(ARCHITECTURES[name].size, 2))
    found, wanted = mean_jacobian(vector_of(observation), observation.layer_output()), slow(observation)
    assert found is not None
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
    assert bool(wanted.any())


@pytest.mark.parametrize("name", GATHERED)
def test_there_is_none_where_a_token_or_attention_gathers_the_cells(name: str) -> None:
    observation = backbone(name).observe(random_images(ARCHITECTURES[name].size, 2))
    assert mean_jacobian(vector_of(observation), observation.layer_output()) is None


class Headed(nn.Module):
    """Cells, their mean, a norm, an MLP; `also` adds something else that the vector sees of them."""

    def __init__(self, also: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.also = also
        self.cells = nn.Conv2d(3, 6, 4, stride=4)
        self.norm, self.hidden, self.last = nn.LayerNorm(6), nn.Linear(6, 9), nn.Linear(9, 5)

    def forward(self, images: Tensor) -> Tensor:
        cells = self.cells(images)
        mean = cells.mean((2, 3))
        found = self.last(F.gelu(self.hidden(self.norm(mean))))
        if self.also == "largest":
            found = found + 1e-2 * cells.amax((2, 3))[:, :5]
        if self.also == "corner":
            found = found + 1e-2 * cells[:, :5, 0, 0]
        if self.also == "second mean":  # the same at every cell, and not by one vector of six entries
            found = found + 1e-2 * cells.mean((1, 2, 3))[:, None].sin() * torch.arange(5.0)
        return found


def observed(also: str) -> cl.Observation:
    model = cl.Backbone(Headed(also).double().eval(), "headed", ("cells",), task="embedding", input_size=(16, 24))
    return model.observe(random_images((16, 24), 2))


def test_it_is_that_of_the_formula() -> None:
    """`d last(gelu(hidden(norm(m)))) / dm`, by loops over a step of each channel in both directions."""
    observation = observed("")
    net = observation.model.module
    found = mean_jacobian(observation.embedding, observation.layer_output())
    assert found is not None
    step = 1e-5
    for image, mean in enumerate(observation.feature().mean((2, 3))):
        for channel in range(6):
            ends = []
            for sign in (1, -1):
                moved = mean.clone()
                moved[channel] += sign * step
                usual, spread = moved.mean(), moved.var(correction=0)
                normed = (moved - usual) / (spread + net.norm.eps).sqrt() * net.norm.weight + net.norm.bias
                ends.append(net.last(F.gelu(net.hidden(normed))).detach())
            slope = (ends[0] - ends[1]) / (2 * step)
            assert float((slope - found[image, :, channel]).abs().max()) < 1e-7


@pytest.mark.parametrize("also", ["largest", "corner", "second mean"])
def test_what_is_seen_beside_the_mean_is_not_overlooked(also: str) -> None:
    observation = observed(also)
    found = mean_jacobian(observation.embedding, observation.layer_output())
    assert found is None


def test_what_is_half_precise_or_without_a_graph_has_none() -> None:
    observation = observed("")
    output = observation.layer_output()
    assert mean_jacobian(observation.embedding.detach(), output) is None
    assert mean_jacobian(observation.embedding.half(), output) is None
