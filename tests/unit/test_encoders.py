"""Three ways to read a text through one interface, and the vectors they keep on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import skimage
import torch
from safetensors import safe_open
from tiny_models import register_open_clip, save_transformers
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.io.cache import cache_folder, cached
from conceptlens.model import encoders
from conceptlens.model.encoders import ClassifierText, OpenClip, Towers, Transformers, VisionLanguage, encode_sentences

pytestmark = pytest.mark.wide

PHOTOS = Path(skimage.__file__).parent / "data"
TEXTS = ["a cat", "a motorcycle on the beach", "blue"]
PAIRS = ("open_clip", "clip", "siglip", "classifier")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONCEPTLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for the whole session: the names of a thousand classes take seconds to encode."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[int], VisionLanguage]]:
    places = {name: save_transformers(name, tmp_path_factory.mktemp(name)) for name in ("clip", "siglip")}
    register_open_clip(tmp_path_factory.mktemp("open_clip"))

    def build(source: str, **options: Any) -> Callable[[int], VisionLanguage]:
        def make(seed: int) -> VisionLanguage:
            torch.manual_seed(seed)
            return cl.load_model(source, pretrained=False, **options).language

        return make

    def classifier(seed: int) -> VisionLanguage:
        rows = torch.randn(3, 20, generator=torch.Generator().manual_seed(seed))
        return ClassifierText(rows, ("tabby cat", "lorry", "sky"), "toy")

    made = {name: build(f"hf:{place}") for name, place in places.items()}
    return {**made, "open_clip": build("open_clip:toy-vit"), "classifier": classifier}


Pairs = dict[str, Callable[[int], VisionLanguage]]


@pytest.mark.parametrize("kind", PAIRS)
def test_a_text_is_a_vector_whatever_stands_beside_it(pairs: Pairs, kind: str, folder: Path) -> None:
    pair = pairs[kind](0)
    together = pair.encode_text(TEXTS)
    assert together.shape[0] == len(TEXTS)
    assert (together.ndim, together.dtype, together.requires_grad) == (2, torch.float32, False)
    assert bool(together.isfinite().all())
    assert float(torch.pdist(together).min()) > 0
    next(folder.iterdir()).unlink()
    alone = torch.cat([pair.encode_text([text]) for text in reversed(TEXTS)]).flip(0)
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(pair.encode_text([TEXTS[1], TEXTS[1]]), alone[[1, 1]], atol=1e-5)


@pytest.mark.parametrize("kind", PAIRS)
def test_it_says_what_it_is(pairs: Pairs, kind: str) -> None:
    pair = pairs[kind](0)
    assert pair.name
    assert pair.scale == pytest.approx({"open_clip": 1 / 0.07, "clip": 14.285}.get(kind, pair.scale), rel=1e-3)
    assert pair.scale > 0
    assert pair.normalised is (kind != "classifier")


@pytest.mark.parametrize("kind", PAIRS)
def test_a_text_is_encoded_once(pairs: Pairs, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    owner, method = (encoders, "_encode_sentences") if kind == "classifier" else (None, "_encode")
    pair = pairs[kind](0)
    owner = owner or type(pair)
    encode = getattr(owner, method)

    def counted(*given: Any) -> Tensor:
        asked.extend(given[-1])
        return encode(*given)

    monkeypatch.setattr(owner, method, counted)
    first = pair.encode_text(TEXTS)
    assert set(TEXTS) <= set(asked)
    asked.clear()
    assert torch.equal(pair.encode_text(TEXTS), first)
    assert torch.equal(pairs[kind](0).encode_text(TEXTS[1:]), first[1:])
    assert asked == []
    pair.encode_text([*TEXTS, "new", "new"])
    assert asked == ["new"]


@pytest.mark.parametrize("kind", ["open_clip", "clip", "siglip"])
def test_other_weights_are_another_model(pairs: Pairs, kind: str, folder: Path) -> None:
    first, second = (pairs[kind](seed).encode_text(TEXTS) for seed in (0, 1))
    assert not torch.allclose(first, second)
    assert len(list(folder.glob("texts-*.safetensors"))) == 2


@pytest.mark.parametrize("kind", [OpenClip, Transformers])
def test_libraries_differ_in_how_the_text_tower_is_called(kind: type) -> None:
    assert issubclass(kind, Towers)
    assert not {"scale", "bias", "encode_image", "encode_text"} & set(vars(kind))


def test_clip_reads_a_text_as_its_library_does(pairs: Pairs, folder: Path) -> None:
    pair: Any = pairs["clip"](0)
    tokens = pair.tokenizer(TEXTS, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        expected = pair.model.get_text_features(**tokens).pooler_output
    assert torch.allclose(pair.encode_text(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["open_clip", "clip", "siglip"])
def test_a_text_longer_than_the_model_reads_is_cut(pairs: Pairs, kind: str, folder: Path) -> None:
    assert pairs[kind](0).encode_text(["very long " * 40]).shape[0] == 1


def test_siglip_reads_its_padding(pairs: Pairs, folder: Path) -> None:
    pair: Any = pairs["siglip"](0)
    full = pair.tokenizer(["cat"], padding="max_length", max_length=16, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = pair.model.get_text_features(input_ids=full).pooler_output
        masked = pair.model.get_text_features(input_ids=full, attention_mask=(full != 1).long()).pooler_output
    assert full.shape == (1, 16)
    assert torch.allclose(pair.encode_text(["cat"]), expected, atol=1e-5)
    assert not torch.allclose(expected, masked, atol=1e-3)


def _lengths(texts: Sequence[str]) -> Tensor:
    return torch.tensor([[float(len(text)), float(len(set(text)))] for text in texts])


def test_vectors_lie_on_disk_by_model_and_text(folder: Path) -> None:
    assert cache_folder() == folder
    found = cached("a model", ["one", "three", "one"], _lengths)
    assert torch.equal(found, torch.tensor([[3.0, 3.0], [5.0, 4.0], [3.0, 3.0]]))
    (file,) = folder.iterdir()
    with safe_open(str(file), framework="pt") as stored:
        metadata = stored.metadata()
        assert (metadata["model"], json.loads(metadata["texts"])) == ("a model", ["one", "three"])
        assert torch.equal(stored.get_tensor("vectors"), found[:2])
    cached("another model", ["one"], _lengths)
    assert len(list(folder.iterdir())) == 2


def test_the_cache_lies_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONCEPTLENS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "conceptlens"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "conceptlens"


@pytest.mark.parametrize("damage", [b"", b"no tensors", b"\x10\0\0\0\0\0\0\0" + b"{}" * 8])
def test_an_unreadable_file_is_written_anew(folder: Path, damage: bytes) -> None:
    cached("a model", ["one"], _lengths)
    (file,) = folder.iterdir()
    file.write_bytes(damage)
    assert torch.equal(cached("a model", ["one", "two"], _lengths), _lengths(["one", "two"]))
    assert torch.equal(cached("a model", ["one"], lambda texts: pytest.fail("encoded again")), _lengths(["one"]))


def test_texts_that_do_not_fit_their_vectors_are_written_anew(folder: Path) -> None:
    from safetensors.torch import save_file

    cached("a model", ["one"], _lengths)
    (file,) = folder.iterdir()
    for metadata in ({"texts": '["one", "two"]'}, {"texts": "7"}, {"other": "[]"}, None):
        save_file({"vectors": torch.zeros(1, 2)}, file, metadata)
        assert torch.equal(cached("a model", ["one"], _lengths), _lengths(["one"]))


def test_a_place_that_cannot_be_written_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CONCEPTLENS_CACHE", str(tmp_path / "file"))
    assert torch.equal(cached("a model", ["one"], _lengths), _lengths(["one"]))


@pytest.mark.parametrize("texts", [[], "one text"])
def test_texts_are_a_list(folder: Path, texts: Any) -> None:
    with pytest.raises(cl.InputError, match="give a list of at least one text"):
        cached("a model", texts, _lengths)


_WRITER = """
import sys, torch
from conceptlens.io.cache import cached
def lengths(texts): return torch.tensor([[float(len(t)), float(len(set(t)))] for t in texts])
for i in range(200):
    texts = [f"{sys.argv[1]} {i}", f"shared {i}"]
    assert torch.equal(cached("a model", texts, lengths), lengths(texts))
"""


@pytest.mark.process
@pytest.mark.slow
def test_processes_that_write_at_once_leave_a_whole_file(folder: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(i)]) for i in range(2)]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    (file,) = folder.iterdir()
    with safe_open(str(file), framework="pt") as stored:
        texts = json.loads(stored.metadata()["texts"])
        assert torch.equal(stored.get_tensor("vectors"), _lengths(texts))
    assert len(texts) > 200


def test_another_writers_texts_are_kept(folder: Path) -> None:
    def meanwhile(texts: Sequence[str]) -> Tensor:
        cached("a model", ["from elsewhere"], _lengths)
        return _lengths(texts)

    cached("a model", ["one"], meanwhile)
    never: Callable[[Sequence[str]], Tensor] = lambda texts: pytest.fail("encoded again")  # noqa: E731
    assert cached("a model", ["from elsewhere", "one"], never).shape == (2, 2)


_ALONE = """
import socket, sys, warnings
def unplugged(*_, **__): raise SystemExit("it asked the network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = unplugged
from conceptlens.model.encoders import encode_sentences
v = encode_sentences(["cat", "kitten", "motorcycle"])
print(float(v[0] @ v[1]), float(v[0] @ v[2]))
"""


@pytest.mark.process
@pytest.mark.slow
def test_sentences_need_no_network_and_make_no_noise(tmp_path: Path) -> None:
    environment = {**os.environ, "CONCEPTLENS_CACHE": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", _ALONE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    kitten, motorcycle = map(float, done.stdout.split())
    assert kitten > 0.7 > 0.4 > motorcycle


def test_sentences_are_unit_vectors_in_any_order(folder: Path) -> None:
    texts = ["a cat", "a long sentence about a motorcycle that stands on a beach", "b"] * 50
    numbered = [f"{text} {i}" for i, text in enumerate(texts)]
    vectors = encode_sentences(numbered)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(150))
    alone = encoders._encode_sentences([numbered[77]])
    assert torch.allclose(vectors[77], nn.functional.normalize(alone, dim=1)[0], atol=1e-5)


def test_six_hundred_texts_take_seconds(folder: Path) -> None:
    encode_sentences(["warm"])
    start = time.perf_counter()
    encode_sentences([f"a photo of a thing with number {i}" for i in range(600)])
    assert time.perf_counter() - start < 15  # two on an idle core


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("chelsea.png", "cat", "motorcycle"),
        ("coffee.png", "cup", "dog"),
        pytest.param("motorcycle_left.png", "motorcycle", "cat", marks=pytest.mark.slow),
        pytest.param("rocket.jpg", "rocket", "bird", marks=pytest.mark.slow),
    ],
)
def test_the_stand_in_tells_what_is_there(
    file: str, right: str, wrong: str, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCEPTLENS_CACHE", str(kept))
    observation = cl.load_model().observe(PHOTOS / file)
    scores = [float(cl.cam(observation, cl.Concept(text)).scores) for text in (right, wrong)]
    assert scores[0] > scores[1]


def test_the_stand_in_is_made_of_the_classifiers_rows(folder: Path) -> None:
    rows = torch.eye(3)
    pair = ClassifierText(rows, ("cat", "lorry", "sky"), "toy", temperature=0.01)
    direction = pair.encode_text(["a photo of a kitten"])[0]
    assert torch.allclose(direction, rows[0] - rows.mean(0), atol=0.05)
    blurred = ClassifierText(rows, ("cat", "lorry", "sky"), "toy", temperature=1e6)
    assert torch.allclose(blurred.encode_text(["kitten"]), torch.zeros(1, 3), atol=1e-5)


def test_a_model_without_class_names_has_no_stand_in() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(cl.InputError, match="has no text encoder"):
        _ = cl.Backbone(module, input_size=(32, 32)).language
