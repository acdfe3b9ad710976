"""Which concepts a bottleneck gets and what tells of them: labels, a pair, both, a table, detections; and what not."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from drawn_birds import Held
from PIL import Image
from torch import Tensor

import conceptlens as cl
from conceptlens.bottleneck.fit import concept_targets
from conceptlens.bottleneck.fit.concept_targets import Targets, build_concept_targets, encode_photos, vlm_fingerprint
from conceptlens.concepts.concept_set import BottleneckConcept, ConceptSet, collect
from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.drawn_scene import SCENE_COLOURS
from conceptlens.data.labelled_set import Annotation, ClassAttributes, PhotoAttributes
from planted_words import planted_model

CLASSES = ("ash wren", "bay tern", "cliff crow")
LABELS = (0, 0, 0, 1, 1, 1, 2, 2)
NAMES = ("has_colour::red", "has_colour::green", "has_size::tiny", "has_eye::any")
SAID = tuple(BottleneckConcept(label) for label in ("red belly", "green belly", "tiny size", "an eye"))
SHARES = np.array([[0.9, 0.1, 0.05, 1.0], [0.2, 0.8, 0.02, 1.0], [0.5, 0.5, 0.0, 1.0]])
ATTRIBUTES = ClassAttributes(NAMES, SHARES, SAID)


def photo(colour: str, patches: int) -> Image.Image:
    """Grey, with so many of its four patches in one of the scenes' colours."""
    pixels = np.full((32, 32, 3), 128, np.uint8)
    for place in range(patches):
        row, column = 16 * (place // 2), 16 * (place % 2)
        pixels[row : row + 16, column : column + 16] = SCENE_COLOURS[colour]
    return Image.fromarray(pixels)


def birds(
    attributes: ClassAttributes | None = ATTRIBUTES, unread: Sequence[int] = (), labels: Sequence[int] = LABELS
) -> Held:
    """Eight photos of three classes: red, green, blue, with one patch or more."""
    colours = ("red", "green", "blue")
    drawn = [None if place in unread else photo(colours[kind], 1 + place % 3) for place, kind in enumerate(labels)]
    return Held(drawn, labels, CLASSES, Annotation(attributes=attributes) if attributes else None)


@pytest.fixture(scope="module")
def pair() -> cl.Backbone:
    return planted_model()


def told(photos: Held, concepts: Any, source: str, vlm: cl.Backbone | None = None) -> Targets:
    vectors = None if vlm is None else encode_photos(vlm, photos, range(len(photos)))
    return build_concept_targets(photos, concepts, source, vlm, vectors)


def of_classes(columns: Sequence[int]) -> Tensor:
    return torch.tensor(SHARES[list(LABELS)][:, list(columns)]).float()


def dropped(found: Targets) -> dict[str, tuple[str, str]]:
    return {one.label: (one.filter, one.reason) for one in found.concepts.dropped}


# --- what each concept is learned from


def test_each_concept_keeps_what_it_is_learned_from(tmp_path: Path, pair: cl.Backbone) -> None:
    photos, of_classes = birds(), "name,hat,scarf\nash wren,1,0\nbay tern,0,1\ncliff crow,0,0\n"
    (tmp_path / "classes.csv").write_text(of_classes)
    own = [f"{name},{number % 2},{int(LABELS[number] == 1)}" for number, name in enumerate(photos.names)]
    (tmp_path / "photos.csv").write_text("\n".join(["name,hat,scarf", *own]))
    boxes = [[{"label": "hat", "box": [0, 0, 9, 9], "score": 0.9}] if number % 2 else [] for number in range(8)]
    (tmp_path / "boxes.json").write_text(json.dumps(dict(zip(photos.names, boxes, strict=True))))
    sources = {
        "classes.csv": {"hat": "classes", "scarf": "classes"},
        "photos.csv": {"hat": "photos", "scarf": "classes"},  # no two photos of a class differ: it says no more
        "boxes.json": {"hat": "detections"},
    }
    for name, expected in sources.items():
        found = told(photos, "auto", str(tmp_path / name))
        assert dict(zip(found.concepts.labels, found.learned_from, strict=True)) == expected
    found = told(photos, ["green belly", "red"], "both", pair)
    assert found.learned_from == ("classes", "vlm")
    assert told(photos, ["green belly", "an eye", "red belly"], "labels").keep([1], ()).learned_from == ("classes",)
    assert told(photos, ["red"], "vlm", pair).learned_from == ("vlm",)


# --- labels


@pytest.mark.parametrize("source", ["auto", "labels", "both"])
def test_class_attributes_are_concepts_and_targets(source: str) -> None:
    found = told(birds(), "auto", source)
    assert found.concepts.labels == ("red belly", "green belly")
    assert found.by == "labels"
    assert torch.equal(found.values, of_classes([0, 1]))
    assert dropped(found) == {
        "tiny size": ("presence", "no class shows it in 10% of its images or more"),
        "an eye": ("constant", "all 3 classes show it in 100% of their images: it tells none apart"),
    }
    assert found.concepts.source == "the class attributes of held train"


def test_named_concepts_are_told_by_attributes_in_either_spelling() -> None:
    found = told(birds(), ["HAS_COLOUR::green", "Red belly", "has_size::tiny", "an eye"], "labels")
    assert found.concepts.labels == ("HAS_COLOUR::green", "Red belly", "has_size::tiny")
    assert torch.equal(found.values, of_classes([1, 0, 2]))
    reason = "every train photo shows as much of it (1): it tells no class apart"
    assert dropped(found) == {"an eye": ("targets", reason)}


def test_a_sets_own_targets_count_before_attributes_and_a_table_before_both(tmp_path: Path) -> None:
    own = collect(["red belly", "beak"], "a person", np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.9]]))
    found = told(birds(), own, "auto")
    assert torch.equal(found.values, torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.9]])[list(LABELS)])
    table = written(tmp_path, "beak,red belly", "0,.7", "1,.8", "0,.9")
    again = told(birds(), own, table)
    assert torch.equal(again.values, torch.tensor([[0.7, 0.0], [0.8, 1.0], [0.9, 0.0]])[list(LABELS)])
    fewer = collect(["beak"], "a person", np.array([[0.1], [0.3]]))
    with pytest.raises(cl.InputError, match="have 2 classes, and held train has 3; give one row for each class"):
        told(birds(), fewer, "labels")


def test_what_nothing_tells_is_dropped_or_refused() -> None:
    found = told(birds(), ["red belly", "red belly ", "Red  Belly", "hat"], "auto")
    assert found.concepts.labels == ("red belly",)
    assert dropped(found) == {
        "Red Belly": ("duplicate", "entry 3 repeats entry 1, 'red belly'"),
        "red belly": ("duplicate", "entry 2 repeats entry 1, 'red belly'"),
        "hat": ("targets", "no target says how much the photos show of it"),
    }
    with pytest.raises(cl.InputError, match=r"leaves no concept \(targets dropped 2\); give other concepts"):
        told(birds(), ["hat", "shoe"], "labels")
    for source in ("auto", "vlm", "both"):
        with pytest.raises(
            cl.InputError, match=r"no target says how much the photos show of 'hat' and 1 more; give a v"
        ):
            told(birds(), ["hat", "shoe"], source)
    with pytest.raises(cl.InputError, match=r"of 'hat'; give a vision-language model \(--vlm\), or a table of targets"):
        told(birds(), ["red belly", "hat"], "both")  # who asks for both means both
    with pytest.raises(cl.InputError, match=r"held train has no attributes, so concepts cannot be chosen from labels"):
        told(birds(None), "auto", "labels")
    with pytest.raises(cl.InputError, match=r"no targets 'label'; near names: labels, or the file of a table"):
        told(birds(), "auto", "label")


def test_what_annotators_saw_in_single_photos() -> None:
    """Red is in photo 0, not in 1, hidden in 2 and in all of class 1: these get the mean of the class, or of all."""
    present, visible = np.zeros((8, 4), bool), np.zeros((8, 4), bool)
    present[[0, 6, 7], 0] = True
    visible[[0, 1, 6, 7], 0] = True
    visible[:, 2] = True
    photos = birds()
    photos._known = Annotation(ATTRIBUTES, PhotoAttributes(NAMES, present, visible))
    found = told(photos, ["red belly", "tiny size", "green belly"], "photos")
    assert found.concepts.labels == ("red belly",)
    assert found.values[:, 0].tolist() == [1, 0, 0.5, 0.75, 0.75, 0.75, 1, 1]
    assert found.by == "labels"
    assert dropped(found)["tiny size"][1] == "no train photo shows it"
    assert dropped(found)["green belly"][1] == "no target says how much the photos show of it"
    with pytest.raises(cl.InputError, match=r"^held train has no attributes of single photos; give --targets labels"):
        told(birds(), ["red belly"], "photos")


# --- a pair


def test_a_pairs_cosines_are_stretched_between_quantiles(pair: cl.Backbone) -> None:
    photos = birds(None, unread=(4,))
    found = told(photos, ["red", "green blue", "yellow"], "auto", pair)
    assert found.by == "vlm"
    assert found.concepts.labels == ("red", "green blue")
    assert dropped(found) == {"yellow": ("targets", "no train photo shows it")}
    # A photo's vector is the mean of each colour's channel: it points at its one colour, whatever its share.
    cosines = {"red": [1, 1, 1, 0, math.nan, 0, 0, 0], "green blue": [0, 0, 0, 0.5**0.5, math.nan] + [0.5**0.5] * 3}
    for column, label in enumerate(found.concepts.labels):
        known = [value for value in cosines[label] if not math.isnan(value)]
        low, high = np.quantile(known, 0.01), np.quantile(known, 0.99)
        for place, cosine in enumerate(cosines[label]):
            wanted = 0.0 if math.isnan(cosine) else min(1.0, max(0.0, (cosine - low) / (high - low)))
            assert float(found.values[place, column]) == pytest.approx(wanted, abs=1e-5)


def test_both_take_labels_first(pair: cl.Backbone) -> None:
    for source in ("auto", "both"):
        found = told(birds(), ["red", "green belly"], source, pair)
        assert found.by == "both"
        assert torch.equal(found.values[:, 1], of_classes([1])[:, 0])
        assert found.values[:, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    labels = told(birds(), ["red", "green belly"], "labels", pair)
    assert (labels.by, labels.concepts.labels) == ("labels", ("green belly",))
    alone = told(birds(), ["red belly", "green belly"], "vlm", pair)
    assert alone.by == "vlm"
    assert alone.values[:, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


def test_vectors_of_photos_are_those_of_one_at_a_time(pair: cl.Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concept_targets, "BATCH_PHOTOS", 2)
    photos = birds(None, unread=(0, 1, 4))
    vectors = encode_photos(pair, photos, range(8))  # the first batch has no photo at all
    assert vectors.shape == (8, len(SCENE_COLOURS))
    for place in range(8):
        if place in (0, 1, 4):
            assert bool(vectors[place].isnan().all())
        else:
            wanted = pair.language.encode_image(pair.observe(photos[place]))[0]
            assert torch.allclose(vectors[place], wanted, atol=1e-6)
    with pytest.raises(cl.InputError, match=r"no photo of held train could be read; the first: 000.png is cut short"):
        encode_photos(pair, birds(None, unread=range(8)), range(8))
    with pytest.raises(
        cl.InputError, match=r"no photo of held train could be read; the first: planted has no transform"
    ):
        encode_photos(replace(pair, transform=None), birds(None), range(8))
    assert vlm_fingerprint(pair).startswith("planted ")


def test_words_of_the_vocabulary_that_the_pair_sees(pair: cl.Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = "cat dog tree car road window chair glass paper stone grass water cloud hill lamp spoon fork shoe coat hat"
    words = ["blue sky", "red petals", "bay tern", "magenta", *plain.split()]
    monkeypatch.setattr(concept_targets, "everyday_words", lambda: tuple(ConceptName(word) for word in words))
    found = told(birds(None, labels=[0, 1, 2] * 5), "auto", "auto", pair)
    assert sorted(found.concepts.labels) == ["blue sky", "red petals"]
    assert found.by == "vlm"
    why = dropped(found)
    assert why["bay tern"] == ("class name", "it is the name of class 'bay tern'")
    assert why["cat"][0] == why["magenta"][0] == "presence"
    assert found.values[:, found.concepts.labels.index("blue sky")].tolist() == [0, 0, 1] * 5


# --- tables and detections


def written(folder: Path, concepts: str, *rows: str, names: Sequence[str] = CLASSES) -> str:
    """Write a table with a row for each name."""
    file = folder / "table.csv"
    file.write_text("\n".join([f"name,{concepts}", *map(",".join, zip(names, rows, strict=True))]))
    return str(file)


def test_a_table_of_photos_is_filled_with_means_of_classes(tmp_path: Path) -> None:
    """Photo 0 says .2, photo 1 nothing, photo 2 .6: the class has .4. Of class 1 nothing is told: it has the mean."""
    names = ["000.png", "002.png", "006.png"]
    table = written(tmp_path, "red,round,flat,never", ".2,1,.5,0", ".6,,.5,0", "1,0,.5,0", names=names)
    found = told(birds(), "auto", table)
    assert found.concepts.labels == ("red", "round")
    mean = (0.2 + 0.6 + 1) / 3
    assert found.values[:, 0].tolist() == pytest.approx([0.2, 0.4, 0.6, mean, mean, mean, 1, 1])
    assert found.values[:, 1].tolist() == pytest.approx([1, 1, 1, 0.5, 0.5, 0.5, 0, 0])
    assert not bool(found.values.isnan().any())
    assert dropped(found) == {
        "flat": ("targets", "every train photo shows as much of it (0.5): it tells no class apart"),
        "never": ("targets", "no train photo shows it"),
    }


def test_a_table_tells_what_was_named_whatever_its_order(tmp_path: Path) -> None:
    table = written(tmp_path, "round,Red", "0,.5", "1,.25", ".5,0")
    found = told(birds(), ["red", "round", "tall"], table)
    assert torch.equal(found.values, torch.tensor([[0.5, 0], [0.25, 1], [0, 0.5]])[list(LABELS)])
    assert dropped(found)["tall"] == ("targets", "no target says how much the photos show of it")
    nothing = written(tmp_path, "red,round", "0,0", "0,0", "0,0")
    with pytest.raises(cl.InputError, match=r"the table of targets leaves no concept \(targets dropped 2\)"):
        told(birds(), "auto", nothing)


def test_a_detector_numbers_photos_by_their_classes_folders(tmp_path: Path) -> None:
    """CUB lists photos in another order than the folders have; 'a b' comes after 'a', though ' ' is before '/'."""

    class Named(Held):
        def _name_of(self, index: int) -> str:
            return ("c/0.png", "a/1.png", "a b/2.png", "a/0.png")[index]

    for number in range(4):
        found = [{"label": "spot", "box": [1, 2, 9, 12], "logit": 0.9}] if number == 2 else []
        (tmp_path / f"{number}.json").write_text(json.dumps([{"img_path": None}, *found]))
    photos = Named([photo("red", 1)] * 4, (0, 1, 2, 1), CLASSES)
    assert told(photos, ["spot"], str(tmp_path)).values[:, 0].tolist() == [0, 0, 1, 0]


def test_a_detectors_boxes_tell_which_photos_show_a_concept(tmp_path: Path) -> None:
    seen = {"000.png": ["red spot", "Ash Wren"], "001.png": ["red spot"], "003.png": ["a hat"], "006.png": []}
    boxes = {
        name: [{"label": label, "box": [1, 2, 9, 12], "score": 0.9} for label in labels]
        for name, labels in seen.items()
    }
    (tmp_path / "seen.json").write_text(json.dumps(boxes))
    found = told(birds(), "auto", str(tmp_path / "seen.json"))
    assert found.concepts.labels == ("a hat", "red spot")
    assert found.by == "labels"
    assert found.values[:, 1].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]  # photo 2 was not looked at: its class shows it
    assert found.values[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    assert dropped(found) == {"Ash Wren": ("class name", "it is the name of class 'ash wren'")}


# --- too much


def test_more_than_there_is_memory_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [f"concept {number}" for number in range(1000)]
    given = ConceptSet(tuple(map(BottleneckConcept, labels)), "many", targets=np.tile(np.arange(3)[:, None] / 4, 1000))
    needed = 8 * 1000 * 4 * 7
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed - 1))
    with pytest.raises(
        cl.InputError, match=r"1000 concepts of 8 photos need about 0\.0 GB of memory and 0\.0 GB are free"
    ):
        told(birds(), given, "auto")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed))
    assert len(told(birds(), given, "auto").concepts) == 1000
