from __future__ import annotations

import pytest
import torch
from torch import nn

import conceptlens as cl


class Own(nn.Module):
    """A CNN with a head of its own that puts out a dictionary."""

    def __init__(self, colours: int, key: str) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(colours, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
        self.key = key

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"size": images.new_tensor(images.shape), self.key: self.head(self.trunk(images).mean((2, 3)))}


@pytest.mark.parametrize("colours", [1, 3, 4])
@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16])
def test_a_module_of_ones_own(colours: int, precision: torch.dtype) -> None:
    model = cl.Backbone(Own(colours, "logits"), input_size=(32, 48)).to(precision)
    assert (model.anatomy.default, model.classifier_name) == ("trunk", "head.2")
    observation = model.observe(torch.randn(2, colours, 32, 48))
    answer = cl.cam(observation, cl.Logit(1))
    assert observation.logits.dtype == precision
    assert answer.maps.shape == (2, 1, 8, 12)
    assert bool(answer.maps.isfinite().all())


def test_a_dictionary_with_words_of_its_own_must_be_explained() -> None:
    with pytest.raises(cl.InputError, match="put out dict; say how to read it with output="):
        _ = cl.Backbone(Own(3, "scores"), input_size=(32, 32)).default_layers
    model = cl.Backbone(Own(3, "scores"), input_size=(32, 32), output=lambda found: found["scores"])
    assert model.observe(torch.randn(1, 3, 32, 32)).logits.shape == (1, 4)


class Placed(nn.Module):
    """A CNN that adds a position embedding, made by a module of its own after the feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 12, 4, 4)
        self.place = nn.Embedding(64, 12)
        self.spread = nn.Unflatten(1, (8, 8))
        self.head = nn.Linear(12, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        cells = self.trunk(images)
        places = self.spread(self.place(torch.arange(64).expand(len(images), -1))).permute(0, 3, 1, 2)
        return self.head((cells * places).mean((2, 3)))


def test_a_position_embedding_is_no_place_to_look() -> None:
    found = cl.Backbone(Placed(), input_size=(32, 32)).anatomy
    assert found.default == "trunk"
    assert [layer.name for layer in found.layers] == ["trunk"]
