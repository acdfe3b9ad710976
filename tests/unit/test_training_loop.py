"""A model that is asked while it is trained: nothing of the training is touched, and answers are of the weights now."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import conceptlens as cl
from conceptlens.model import encoders

NAMES = ("tabby", "dog", "rocket")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2))
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).mean((2, 3)))


def wrapped(net: nn.Module) -> cl.Backbone:
    return cl.Backbone(net, "net", class_names=NAMES, task="single_label", input_size=(64, 64))


@pytest.fixture
def training() -> tuple[Net, torch.optim.Optimizer, Tensor]:
    torch.manual_seed(0)
    net = Net().train()
    return net, torch.optim.SGD(net.parameters(), 0.1, momentum=0.9), torch.randn(4, 3, 64, 64)


def loss(net: nn.Module, images: Tensor) -> Tensor:
    return F.cross_entropy(net(images), torch.tensor([0, 1, 2, 0]))


def test_asking_between_backward_and_step_changes_nothing_of_the_training(
    training: tuple[Net, torch.optim.Optimizer, Tensor],
) -> None:
    net, _, images = training
    net.body[1].eval()  # a norm that is held fixed, as in fine-tuning
    loss(net, images).backward()
    gradients = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    modes, drawn = [part.training for part in net.modules()], torch.get_rng_state()
    encoders._sentence_encoder.cache_clear()  # the first word loads it
    encoders._sentence_encoder()
    with torch.no_grad():
        observation = wrapped(net).observe(images)
        cl.cam(observation, "dog")
        cl.explain(observation, ["tabby", "fur"], target="tabby")
    for parameter, before in zip(net.parameters(), gradients, strict=True):
        assert before is not None
        assert parameter.grad is not None
        assert parameter.requires_grad
        assert torch.equal(parameter.grad, before)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert [part.training for part in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)


def test_one_backbone_answers_as_a_new_one_after_each_step(
    training: tuple[Net, torch.optim.Optimizer, Tensor],
) -> None:
    net, optimizer, images = training
    kept, seen = wrapped(net), []
    for _ in range(3):
        optimizer.zero_grad()
        loss(net, images).backward()
        optimizer.step()
        pair = [model.observe(images) for model in (kept, wrapped(net))]
        maps = [cl.cam(one, "dog").maps for one in pair]
        words = [cl.explain(one, ["tabby", "fur"], target="tabby").scores for one in pair]
        assert torch.equal(*maps)
        assert torch.equal(*words)
        seen.append(words[0])
    assert not torch.equal(seen[0], seen[2])


def test_an_observation_of_weights_that_are_gone_is_refused(
    training: tuple[Net, torch.optim.Optimizer, Tensor],
) -> None:
    net, optimizer, images = training
    observation = wrapped(net).observe(images)
    loss(net, images).backward()
    optimizer.step()
    with pytest.raises(cl.InputError, match="observe again"):
        cl.cam(observation, "dog")


def test_asking_between_forward_and_backward_leaves_the_graph_of_the_loss_whole(
    training: tuple[Net, torch.optim.Optimizer, Tensor],
) -> None:
    net, _, images = training
    net.body[3].eval()
    waiting = loss(net, images)
    cl.cam(wrapped(net).observe(images), "dog")
    waiting.backward()
    found = [p.grad for p in net.parameters()]
    net.zero_grad()
    loss(net, images).backward()
    for parameter, before in zip(net.parameters(), found, strict=True):
        assert before is not None
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, before, atol=1e-7)


def test_autocast_gives_the_map_of_full_precision_but_for_its_rounding(
    training: tuple[Net, torch.optim.Optimizer, Tensor],
) -> None:
    net, _, images = training
    model = wrapped(net)
    whole = cl.cam(model.observe(images), "dog").maps
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = cl.cam(model.observe(images), "dog").maps.float()
    assert float((whole - rounded).abs().max()) <= 0.03 * float(whole.max())
