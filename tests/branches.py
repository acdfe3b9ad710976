"""Untrained branches for any model, and a teacher whose text half is a seeded table: CE-FAM without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.concept_regions.branch import Branch, branch_layers, layer_widths
from conceptlens.concept_regions.translator import Teacher, Translator
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.model.model_output import ModelOutput

DIMENSION = 9


@cache
def text_vector(text: str, dimension: int = DIMENSION) -> Tensor:
    """Return the vector that stands for `text`: noise, seeded by its letters."""
    seed = sum(place * ord(letter) for place, letter in enumerate(text, 1))
    return torch.randn(dimension, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Words:
    """The text half of a pair that compares as CLIP does (unit vectors), as SigLIP (with a bias), or plainly."""

    scale: float = 12.0
    bias: float = 0.0
    normalised: bool = True
    name: str = "words"

    def encode_image(self, output: ModelOutput) -> Tensor:
        return output.embedding

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([text_vector(text) for text in texts])


CLIP = Words()
SIGLIP = Words(scale=8.0, bias=-3.0)
PLAIN = Words(scale=3.0, normalised=False)
PAIRS = {"clip": CLIP, "siglip": SIGLIP, "plain": PLAIN}


def teacher(words: Words = CLIP) -> cl.Backbone:
    """Return a backbone that is only there for its text half."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cl.Backbone(nn.Linear(2, DIMENSION), "teacher", text=words, task="embedding")


def branch_of(
    model: cl.Backbone,
    words: Words = CLIP,
    layers: Sequence[str] | None = None,
    hidden: Sequence[int] = (16, 12),
    seed: int = 5,
) -> Translator:
    """Return an untrained branch of `model` after `teacher(words)`."""
    names = branch_layers(model) if layers is None else tuple(layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        branch = Branch(names, layer_widths(model, names), DIMENSION, hidden)
    vlm = teacher(words)
    return Translator(branch, Teacher.of(vlm), model.name, weights_fingerprint(model.module), {}, vlm)
