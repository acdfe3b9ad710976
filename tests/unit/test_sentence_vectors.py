"""The sentence vectors that come with the package are what the encoder gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import conceptlens as cl
from conceptlens.concepts.vocabulary import prompt, vocabulary
from conceptlens.model import encoders
from conceptlens.model.encoders import ClassifierText, encode_sentences


def test_shipped_vectors_equal_the_encoders() -> None:
    texts = [prompt(c) for c in vocabulary()[::40]]
    fresh = torch.nn.functional.normalize(encoders._encode_sentences(texts), dim=1)
    assert (encode_sentences(texts) - fresh).abs().max() < 1e-3


def test_the_vocabulary_and_imagenet_need_no_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CONCEPTLENS_CACHE", str(tmp_path))
    labels = cl.load_model().class_names
    assert labels is not None

    def refuse(texts: list[str]) -> torch.Tensor:
        raise AssertionError(f"encoded {texts[:3]}; run tools/ship_sentences.py")

    monkeypatch.setattr(encoders, "_encode_sentences", refuse)
    encode_sentences([prompt(c) for c in vocabulary()])
    encode_sentences([ClassifierText.prompt.format(name) for name in labels])
    assert list(tmp_path.iterdir()) == []
