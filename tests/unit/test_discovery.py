"""Discovered concepts: planted ones are found and counted, folders kept and named, and what cannot be is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

import conceptlens as cl
from conceptlens.concepts.vocabulary import vocabulary
from conceptlens.data.drawn_scene import DrawnSet
from conceptlens.discovery import concept_count, photo_cells
from conceptlens.discovery.concept_count import Candidate, choose, fits, taken_in_turn
from conceptlens.discovery.concept_names import parse_names
from conceptlens.discovery.concept_places import Suggestion
from conceptlens.explainer import name_suggestions
from conceptlens.explainer.name_suggestions import suggest_names
from planted import LABELS, ColourNet

PHOTOS = 60


def planted_cells(seed: int, signed: bool = False, photos: int = 60, concepts: int = 6) -> tuple[torch.Tensor, ...]:
    """Return directions and cells made of few of them each, with a little noise, and one photo with a pattern alone."""
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(concepts, 24)) if signed else draw.exponential(size=(concepts, 24)) ** 2
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    strength = draw.exponential(size=(photos, 16, concepts)) * (draw.random((photos, 16, concepts)) < 0.3)
    cells = strength @ rows + 0.01 * abs(draw.normal(size=(photos, 16, 24)))
    cells[0, :, :8] += 3 * draw.exponential(size=(16, 1)) * abs(draw.normal(size=8))
    return torch.tensor(rows).float(), torch.tensor(cells).float()


@pytest.mark.parametrize("signed", [False, True], ids=["non-negative", "signed"])
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_directions_and_their_number_are_found(signed: bool, seed: int) -> None:
    rows, cells = planted_cells(seed, signed)
    found = list(fits(cells[:48], cells[48:], (2, 4, 6, 8, 10), seed))
    taken = found[choose([one.candidate for one in found])]
    assert taken.candidate.count > 6  # one direction goes to what one photo alone shows, and is not kept
    assert len(taken.directions) == 6
    assert float(concept_count.matched_cosines(rows, taken.directions).min()) > (0.85 if signed else 0.98)
    assert taken.candidate.explained > (0.9 if signed else 0.99)
    assert float(taken.stability.min()) > (0.85 if signed else 0.98)


def test_all_are_kept_where_a_number_is_given() -> None:
    _, cells = planted_cells(0)
    (fit,) = fits(cells[:48], cells[48:], (9,), keep_all=True)
    assert len(fit.directions) == fit.candidate.kept == 9
    assert float(fit.shared.min()) < concept_count.MIN_SHARED


def a_candidate(kept: int, explained: float, stability: float = 0.9) -> Candidate:
    return Candidate(10, kept, explained, stability, 0.2)


@pytest.mark.parametrize(
    ("candidates", "taken", "chosen"),
    [
        ([(3, 0.3), (5, 0.4), (7, 0.405)], [0, 1], 1),
        ([(0, 0.9), (5, 0.4), (7, 0.3), (9, 0.42)], [1, 3], 3),
        ([(0, 0.2, 0.3), (0, 0.1, 0.7), (0, 0.3, 0.5)], [], 1),
    ],
)
def test_the_largest_number_is_taken_that_still_explains_more(
    candidates: list[tuple[int, float]], taken: list[int], chosen: int
) -> None:
    made = [a_candidate(*one) for one in candidates]
    assert (taken_in_turn(made), choose(made)) == (taken, chosen)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes as files, and one that is broken."""
    folder = tmp_path_factory.mktemp("photos")
    for index, one in enumerate(DrawnSet(PHOTOS)):
        one.photo.resize((96, 96)).save(folder / f"{index:02}.png")
    (folder / "broken.png").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def model() -> cl.Backbone:
    return cl.Backbone(ColourNet(), "planted", ("features",), to_tensor, class_names=LABELS)


@pytest.fixture(scope="module")
def found(model: cl.Backbone, photos: Path) -> cl.DiscoveredConcepts:
    return cl.discover(model, photos, count=6)


class TestDiscover:
    def test_the_colours_of_drawn_scenes_are_found_in_their_places(
        self, found: cl.DiscoveredConcepts, model: cl.Backbone
    ) -> None:
        colours = torch.eye(len(LABELS) + 1)[: len(LABELS)]
        colours[:, -1] = 1  # the last channel sums the others
        cosines = torch.nn.functional.normalize(colours, dim=1) @ found.directions.T
        assert float(cosines.amax(1).min()) > 0.97
        for number, places in enumerate(found.places):
            assert len({place.photo for place in places}) == len(places) > 0
            strengths = [place.activation for place in places]
            assert strengths == sorted(strengths, reverse=True)
            first = places[0]
            assert float(first.activations[first.row, first.column]) == pytest.approx(first.activation)
            seen = model.observe(first.photo).feature()[0, : len(LABELS), first.row, first.column]
            assert int(seen.argmax()) == int(cosines[:, number].argmax())

    def test_what_is_said_of_them_fits(self, found: cl.DiscoveredConcepts, photos: Path) -> None:
        about = found.diagnostics
        assert (about["photos"], about["held_out"], about["signed"]) == (PHOTOS, 12, False)
        assert about["cells"] == PHOTOS * about["cells_of_photo"]
        assert [name for name, _ in found.failures] == [str(photos / "broken.png")]
        assert list(found.activity) == sorted(found.activity, reverse=True)
        assert about["accounted"] == pytest.approx(sum(found.activity))
        assert about["explained"] > 0.9
        assert found.labels == tuple(f"concept {number}" for number in range(6))
        assert "6 discovered concepts of planted at features: concept 0" in repr(found)

    def test_the_same_seed_gives_the_same_and_a_part_of_the_photos_may_be_taken(
        self, model: cl.Backbone, photos: Path
    ) -> None:
        one, two = (cl.discover(model, photos, 3, seed=4, max_photos=12, batch_size=size) for size in (3, 8))
        torch.testing.assert_close(one.directions, two.directions)
        assert one.diagnostics["photos"] in (11, 12)

    def test_memory_is_bounded_whatever_the_photos(
        self, model: cl.Backbone, photos: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(photo_cells, "MAX_CELLS", 150)
        sample = photo_cells.sample_cells(model, sorted(photos.glob("[0-9]*")), "features", 8, 0)
        assert sample.cells.shape == (PHOTOS, 2, len(LABELS) + 1)

    def test_shares_of_cells_are_the_same_as_the_parts_of_the_concepts(
        self, found: cl.DiscoveredConcepts, model: cl.Backbone, photos: Path
    ) -> None:
        observation = model.observe([photos / "00.png", photos / "01.png"])
        made, feature = found.cell_shares(observation), observation.feature()
        assert made.shape == (2, 6, *feature.shape[2:])
        total, active = made.sum(1), feature.sum(1) > 0
        assert float(total[active].min()) > 0.9
        assert float(total.max()) <= 1 + 1e-5
        assert not bool(total[~active].any())
        rebuilt = torch.einsum("nkhw,kc->nchw", found.activations(observation), found.directions)
        torch.testing.assert_close(rebuilt, feature, atol=0.15, rtol=0)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda m, p: cl.discover(m, p, count=40), r"40 concepts are asked for; layer 'features' has 7 channels"),
            (lambda m, p: cl.discover(m, p, count=0), "0 concepts are asked for; give a number of at least 1"),
            (lambda m, p: cl.discover(m, p / "00.png"), "1 photos were given; concepts are discovered in at least 8"),
            (lambda m, p: cl.discover(m, [p / "broken.png"] + [p / f"no{i}.png" for i in range(8)]), "none of the 9"),
            (lambda m, p: cl.discover(m, [*sorted(p.glob("0*"))[:7], p / "broken.png"]), "only 7 photos could be read"),
            (lambda m, p: cl.discover(m, p, layer="nowhere"), "no layer 'nowhere'"),
            (lambda m, p: cl.discover(str(m), p), "a str was given as the model"),  # pyright: ignore[reportArgumentType]
        ],
    )  # fmt: skip
    def test_what_cannot_be_is_refused(
        self, call: Callable[..., object], message: str, model: cl.Backbone, photos: Path
    ) -> None:
        with pytest.raises(cl.InputError, match=message):
            call(model, photos)

    def test_another_model_and_another_layer_are_refused(self, found: cl.DiscoveredConcepts, photos: Path) -> None:
        other = cl.Backbone(ColourNet(shared=0.5), "other", ("features",), to_tensor)
        with pytest.raises(cl.InputError, match=r"discovered in planted with weights .* and other with weights"):
            found.cell_shares(other.observe(photos / "00.png"))
        same = cl.Backbone(ColourNet(), "same", ("pool",), to_tensor)
        with pytest.raises(cl.InputError, match="layer 'features' was not observed"):
            found.cell_shares(same.observe(photos / "00.png"))
        with pytest.raises(cl.InputTypeError, match="expected an Observation"):
            found.cell_shares(photos)  # pyright: ignore[reportArgumentType]

    def test_no_word_is_suggested_where_nothing_is_known_of_the_classes(
        self, found: cl.DiscoveredConcepts, model: cl.Backbone
    ) -> None:
        assert suggest_names(replace(model, class_names=None), found).suggestions == ((),) * 6


class TestFolder:
    def test_a_folder_gives_back_what_was_saved(self, found: cl.DiscoveredConcepts, tmp_path: Path) -> None:
        word = Suggestion("red", 0.9, 0.1, 0.8)
        saved = replace(found, suggestions=((word,), *found.suggestions[1:])).named("1=water, 3=wet grass")
        again = cl.DiscoveredConcepts.load(saved.save(tmp_path / "made"))
        torch.testing.assert_close(again.directions, saved.directions)
        for name in ("names", "suggestions", "activity", "stability", "shared", "candidates", "failures", "layer"):
            assert getattr(again, name) == getattr(saved, name), name
        for old, new in zip(saved.places, again.places, strict=True):
            assert [(p.photo, p.row, p.box) for p in old] == [(p.photo, p.row, p.box) for p in new]
            torch.testing.assert_close(old[0].activations, new[0].activations)
        assert again.labels[:4] == ("concept 0", "water", "concept 2", "wet grass")

    def test_names_are_edited_in_the_table(self, found: cl.DiscoveredConcepts, tmp_path: Path) -> None:
        folder = found.save(tmp_path)
        table = folder / "names.tsv"
        lines = table.read_text().splitlines()
        assert lines[0] == "id\tname\tsuggested"
        table.write_text("\n".join([*lines[:3], "2\tred things", "", "# a comment", "3"]))
        assert cl.DiscoveredConcepts.load(folder).names == ("", "", "red things", "", "", "")
        table.write_text("9\tgrass\n")
        with pytest.raises(
            cl.InputError, match=r"there is no concept 9 to be called 'grass' in .*names.tsv; there are 6"
        ):
            cl.DiscoveredConcepts.load(folder)
        table.unlink()
        assert cl.DiscoveredConcepts.load(folder).names == ("",) * 6

    def test_a_name_is_taken_away_and_none_is_given_twice(self, found: cl.DiscoveredConcepts) -> None:
        named = found.named({0: "sky", 1: "grass"})
        assert named.named("0=").names[:2] == ("", "grass")
        with pytest.raises(cl.InputError, match="the concepts 1 and 2 are both called 'grass'"):
            named.named({2: "Grass"})

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("water", "'water' in the names is no number with a name, and no file"),
            ("water=3", "begins with 'water', which is no number of a concept"),
            ("1=a, 1=b", "concept 1 is named twice"),
        ],
    )
    def test_names_that_cannot_be_read_are_refused(self, given: str, message: str) -> None:
        with pytest.raises(cl.InputError, match=message):
            parse_names(given)

    @pytest.mark.parametrize("change", ["config", "weights", "count"])
    def test_a_folder_that_is_not_whole_is_refused(
        self, found: cl.DiscoveredConcepts, tmp_path: Path, change: str
    ) -> None:
        folder = found.save(tmp_path)
        if change == "config":
            (folder / "config.json").unlink()
        if change == "weights":
            (folder / "concepts.safetensors").write_bytes(b"short")
        if change == "count":
            config = json.loads((folder / "config.json").read_text())
            config["concepts"].pop()
            (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(cl.InputError, match=r"holds no (whole )?discovered concepts"):
            cl.DiscoveredConcepts.load(folder)


def test_a_word_must_be_likely_here_rarer_elsewhere_and_in_the_same_cells(
    found: cl.DiscoveredConcepts, model: cl.Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {"cat": (0.9, 0.1, 0.8), "dog": (0.4, 0.0, 0.9), "tree": (0.9, 0.7, 0.9), "sky": (0.8, 0.2, 0.1)}
    labels = [word.label for word in vocabulary()]
    likely = torch.zeros(4, len(labels))
    for word, (here, elsewhere, _) in words.items():
        likely[:2, labels.index(word)], likely[2:, labels.index(word)] = here, elsewhere
    likely[1] = torch.nan  # a photo that is gone
    agreements = {word: agreement for word, (_, _, agreement) in words.items()}
    monkeypatch.setattr(
        name_suggestions, "_agreement", lambda *given: torch.tensor([agreements.get(w.label, 1.0) for w in given[3]])
    )
    own = torch.tensor([True, True, False, False])
    (one,) = name_suggestions._suggestions(model, "features", found.places[0], likely, own)
    assert (one.name, one.presence, one.elsewhere) == ("cat", pytest.approx(0.9), pytest.approx(0.1))


@pytest.mark.slow
def test_words_are_suggested_that_are_in_the_photos_of_a_concept(tmp_path: Path) -> None:
    data = Path(skimage.__file__).parent / "data"
    for name in ("chelsea.png", "coffee.png"):
        photo = Image.open(data / name).convert("RGB")
        for index in range(6):  # other cuts of the same photo
            photo.crop((6 * index, 4 * index, photo.width - 5 * index, photo.height)).save(tmp_path / f"{index}{name}")
    model = cl.load_model()
    found = suggest_names(model, cl.discover(model, tmp_path, count=3))
    words = {
        each[0].name: {Path(place.photo).name[1:] for place in places}
        for places, each in zip(found.places, found.suggestions, strict=True)
        if each
    }
    assert words == {"cat": {"chelsea.png"}, "espresso": {"coffee.png"}}
