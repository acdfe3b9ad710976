from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

import conceptlens as cl
from conceptlens.concept_regions.branch import Branch
from conceptlens.concept_regions.translator import Teacher, Translator
from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.masked_set import MaskedPhoto
from conceptlens.io.errors import Failure
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.io.images import fingerprint
from conceptlens.localization.evaluate_localization import check_settings, evaluate_localization
from conceptlens.localization.localization_cases import choose_cases, load_cases
from conceptlens.localization.mask_truth import truth_of
from conceptlens.localization.methods import METHODS, MethodContext, build_methods, method_names
from conceptlens.localization.result_rows import ORACLE, Row, row_schema, write_rows
from conceptlens.localization.summary import summarise, summary_numbers
from conceptlens.metrics import MAP_MASK_METRICS, bootstrap_difference, bootstrap_macro_mean, bootstrap_mean
from conceptlens.metrics.map_mask import map_mask_scores
from conceptlens.record import WHOLE, Explanation, ImageInfo, Source
from planted_words import OnlyColours, planted_model

pytestmark = pytest.mark.wide

LEAD = "ranked_area_corrected"
MODEL = planted_model()
DATA = OnlyColours(24)
CONTEXT = MethodContext(MODEL, DATA.concepts, probe=[one.photo for one in OnlyColours(60, "train")])
KNOWN = [
    *(name for name in METHODS if name not in ("competing", "coarse", "fine")),
    "grad_cam",
]  # those compete with the package's words, which are not planted
BUILT = build_methods(KNOWN, CONTEXT)


def rows_of(*found: tuple[Row, ...] | Failure) -> list[Row]:
    return [row for part in found if isinstance(part, tuple) for row in part]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return rows_of(*evaluate_localization(DATA, BUILT))


def test_what_was_planted_wins_and_a_wrong_name_falls_to_chance(rows: list[Row]) -> None:
    found = summarise(rows)
    means = {line.method: line.scores["all"][LEAD].mean for line in found.methods}
    wrong = {line.method: line.wrong_scores["all"][LEAD].mean for line in found.methods}
    for name in ("ce_fam", "per_cell", "clip_dissect", "www"):
        assert means[name] > 0.8, name
        assert wrong[name] < 0.1, name
        assert means[name] > means["grad_cam"] + 0.2
    assert abs(means["random"]) < 0.1
    assert abs(means["centre"]) < 0.3
    assert means["centre"] == pytest.approx(wrong["centre"])
    assert means["grad_cam"] == pytest.approx(wrong["grad_cam"])
    assert found.best("all", LEAD) in ("ce_fam", "per_cell", "clip_dissect", "www")


def test_choosing_with_the_mask_is_an_oracle_and_lifts_even_random_maps(rows: list[Row]) -> None:
    means = {line.method: line.scores["all"]["ranked_area"].mean for line in summarise(rows).methods}
    assert {name for name in means if name.endswith(ORACLE)} == {
        f"{n}{ORACLE}" for n in ("clip_dissect", "www", "random")
    }
    assert means["random" + ORACLE] > means["random"] + 0.05
    by_pair = {(r.photo, r.concept, r.method): r.scores["ranked_area"] for r in rows}
    for (photo, concept, method), value in by_pair.items():
        if method.endswith(ORACLE):
            assert value is not None
            assert value >= (by_pair[photo, concept, method.removesuffix(ORACLE)] or 0) - 1e-9


def test_wrong_names_are_absent_from_the_photo_and_the_same_for_all_methods(rows: list[Row]) -> None:
    shown = {one.name: {c.label for c in one.concepts} for one in DATA}
    drawn: dict[tuple[str, str], set[str | None]] = {}
    for row in rows:
        assert row.wrong_concept not in shown[row.photo]
        drawn.setdefault((row.photo, row.concept), set()).add(row.wrong_concept)
    assert all(len(names) == 1 for names in drawn.values())
    assert len({name for names in drawn.values() for name in names}) > 3
    other = rows_of(*evaluate_localization(DATA, {"centre": BUILT["centre"]}, seed=1))
    assert [r.wrong_concept for r in other] != [r.wrong_concept for r in rows if r.method == "centre"]


def branch(*layers: str) -> Translator:
    """A branch that reads the planted colours off the first of its layers' pooled channels, the deepest."""
    network = Branch(layers, (7,) * len(layers), 6, ())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.network[0].weight[:, :6] = torch.eye(6)
    model = planted_model()
    return Translator(network, Teacher.of(model), "planted", weights_fingerprint(model.module), vlm=model)


@pytest.mark.parametrize("layers", [("features",), ("mix", "features")])
def test_a_branch_is_read_and_its_layers_are_candidates(layers: tuple[str, ...]) -> None:
    context = dataclasses.replace(CONTEXT, translator=branch(*layers))
    built = build_methods(["ce_fam", "per_cell", "random"], context)
    found = summarise(rows_of(*evaluate_localization(DATA, built, max_photos=8)), reference="random")
    lines = {line.method: line for line in found.methods}
    assert lines["ce_fam"].scores["all"][LEAD].mean > 0.8
    assert lines["per_cell"].scores["all"][LEAD].mean > 0.8
    names = list(lines)
    assert ("ce_fam" + ORACLE in names) == (len(layers) > 1)
    seen = next(iter(DATA)).photo
    together = built["ce_fam"](seen, DATA.concepts)
    assert torch.allclose(built["ce_fam"](seen, DATA.concepts[2:3]).maps[0, 0], together.maps[0, 2], atol=1e-6)


@pytest.mark.parametrize("name", KNOWN)
def test_a_map_does_not_depend_on_what_else_is_asked(name: str) -> None:
    one = next(iter(DATA))
    together = BUILT[name](one.photo, DATA.concepts)
    assert together.maps.shape[:2] == (1, len(DATA.concepts))
    assert together.labels == (tuple(c.label for c in DATA.concepts),)
    for i in (0, 3):
        alone = BUILT[name](one.photo, DATA.concepts[i : i + 1])
        assert torch.allclose(alone.maps[0, 0], together.maps[0, i], atol=1e-6)


def test_random_maps_depend_on_photo_concept_and_seed_alone() -> None:
    photos = [one.photo for one in DATA][:2]
    asked = DATA.concepts[:2]
    first, again = (BUILT["random"](photos[0], asked).maps for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first[0, 0], first[0, 1])
    assert not torch.allclose(first, BUILT["random"](photos[1], asked).maps)
    other = build_methods(["random"], dataclasses.replace(CONTEXT, seed=1))["random"]
    assert not torch.allclose(first, other(photos[0], asked).maps)


def flat(photo: Image.Image, concepts: Sequence[ConceptName]) -> Explanation:
    maps = torch.linspace(0, 1, 16).reshape(1, 1, 4, 4).expand(1, len(concepts), 4, 4)
    source = Source("m", "l", "flat", (ImageInfo("p", "", *photo.size),))
    return Explanation(maps, None, torch.zeros(1, len(concepts)), (tuple(c.label for c in concepts),), source)


class TwoPhotos:
    """A wide photo, half sky, a strip ignored, a speck of bird; and a second one."""

    name = "two"
    names = ("a", "b")
    concepts = (ConceptName("sky"), ConceptName("bird"), ConceptName("car"))

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[MaskedPhoto]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> MaskedPhoto:
        masks = np.zeros((2, 40, 80), bool)
        masks[0, :20] = True
        masks[1, 39, :8] = True
        ignored = np.zeros((40, 80), bool)
        ignored[:, 60:] = True
        name = ("a", "b")[place]
        return MaskedPhoto(name, Image.new("RGB", (80, 40)), self.concepts[:2], ("stuff", "thing"), masks, ignored)


def test_masks_are_those_of_the_part_that_the_model_saw() -> None:
    one = next(iter(TwoPhotos())).with_min_area(0.01)
    whole = truth_of(one, WHOLE, 20)
    assert whole.masks.shape == (1, 20, 20)
    assert whole.ignored is not None
    assert whole.ignored[:, 15:].all()
    assert not whole.ignored[:, :15].any()
    assert whole.shares() == [0.5]
    upper = truth_of(one, (0.0, 0.0, 0.5, 0.75), None)
    assert upper.masks.shape == (1, 30, 40)
    assert upper.ignored is None
    assert upper.shares() == [pytest.approx(2 / 3)]
    beyond = truth_of(one, (0.0, -0.5, 1.0, 1.0), 60)
    assert beyond.ignored is not None
    assert beyond.ignored[:20].all()


def test_rows_hold_the_metrics_and_small_concepts_are_left_out() -> None:
    data = TwoPhotos()
    found = rows_of(*evaluate_localization(data, {"flat": flat}, resolution=20))
    assert [(r.photo, r.concept, r.group, r.wrong_concept) for r in found] == [
        ("a", "sky", "stuff", "car"),  # the bird is small, but it is there
        ("b", "sky", "stuff", "car"),
    ]
    one = next(iter(data)).with_min_area(0.01)
    truth = truth_of(one, WHOLE, 20)
    assert truth.ignored is not None
    by_hand = map_mask_scores(flat(one.photo, one.concepts).maps, truth.masks[None], truth.ignored[None])
    assert found[0].scores == pytest.approx({name: score.of(0, 0) for name, score in by_hand.items()}, rel=1e-6)
    both = rows_of(*evaluate_localization(data, {"flat": flat}, min_area=0, resolution=None))
    assert [r.concept for r in both] == ["sky", "bird"] * 2
    assert len(rows_of(*evaluate_localization(data, {"flat": flat}, max_photos=1))) == 1


def test_a_photo_that_fails_is_reported_and_the_rest_goes_on() -> None:
    turn = iter(range(99))

    def sometimes(photo: Image.Image, concepts: Sequence[ConceptName]) -> Explanation:
        if next(turn) == 0:
            raise RuntimeError("out of\nmemory")
        return flat(photo, concepts)

    first, second = evaluate_localization(TwoPhotos(), {"flat": flat, "sometimes": sometimes})
    assert first == Failure("a", "a: out of memory")
    assert {r.method for r in rows_of(second)} == {"flat", "sometimes"}


def test_a_photo_that_cannot_be_read_is_reported_and_the_next_follows() -> None:
    class Broken(TwoPhotos):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, place: int) -> MaskedPhoto:
            if place == 1:
                raise cl.InputError("photo c is broken")
            return super().__getitem__(min(place, 1))

    first, second, third = evaluate_localization(Broken(), {"flat": flat})
    assert second == Failure("b", "photo c is broken")
    assert isinstance(first, tuple)
    assert isinstance(third, tuple)


def test_rows_are_a_table_in_parquet(rows: list[Row], tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    write_rows(rows, file)
    table = parquet.read_table(file).to_pylist()
    assert [(line["photo"], line["method"], line["has_own_map"]) for line in table] == [
        (row.photo, row.method, row.has_own_map) for row in rows
    ]
    assert [{name: line[name] for name in MAP_MASK_METRICS} for line in table] == [row.scores for row in rows]
    assert [line[f"wrong_{LEAD}"] for line in table] == [row.wrong_scores[LEAD] for row in rows]
    assert row_schema().names[:5] == ["photo", "concept", "type", "group", "method"]
    assert {f"wrong_{name}" for name in MAP_MASK_METRICS} < set(row_schema().names)
    assert list(tmp_path.iterdir()) == [file]


def a_row(photo: str, group: str, method: str, value: float, wrong: float = 0.0) -> Row:
    names = dict.fromkeys(MAP_MASK_METRICS, value)
    return Row(
        photo,
        f"thing of {photo}",
        "object",
        group,
        method,
        0.25,
        True,
        names,
        "x",
        dict.fromkeys(MAP_MASK_METRICS, wrong),
    )


def test_the_summary_is_made_of_the_metrics_own_intervals() -> None:
    draw = np.random.default_rng(0)
    values = {m: draw.random(12) for m in ("one", "two")}
    photos = [f"p{i // 2}" for i in range(12)]
    groups = ["thing" if i % 3 else "stuff" for i in range(12)]
    made = [
        dataclasses.replace(a_row(photos[i], groups[i], m, float(values[m][i]), 0.1), concept=str(i))
        for i in range(12)
        for m in values
    ]
    found = summarise(made, reference="one", n_bootstrap=200)
    assert found.groups == ("macro", "stuff", "thing", "all")
    assert (found.photos, found.pairs["all"], found.pairs["stuff"]) == (6, 12, 4)
    one, two = found.methods
    assert two.scores["all"][LEAD] == bootstrap_mean(values["two"], photos, 200)
    assert two.scores["macro"][LEAD] == bootstrap_macro_mean(values["two"], groups, photos, 200)
    assert two.minus_reference["all"][LEAD] == bootstrap_difference(values["two"], values["one"], photos, 200)
    assert two.minus_wrong["all"][LEAD].mean == pytest.approx(values["two"].mean() - 0.1)
    assert one.minus_reference == {}
    best = max(values, key=lambda m: values[m].mean())
    assert found.best("all", LEAD) == best
    numbers = summary_numbers(found)
    assert numbers["methods"][1]["scores"]["all"][LEAD]["mean"] == pytest.approx(values["two"].mean())
    assert [m["name"] for m in numbers["metrics"]] == list(MAP_MASK_METRICS)


@pytest.mark.parametrize(("photos", "few"), [(1, False), (2, True), (7, True), (8, False)])
def test_intervals_of_few_photos_come_with_a_warning(photos: int, few: bool) -> None:
    found = summarise([a_row(f"p{i}", "thing", "one", i / 10) for i in range(photos)], reference=None, n_bootstrap=20)
    said = f"{photos} photos are few: intervals of fewer than 8 are too narrow to rely on"
    assert found.warning == (said if few else None)


def test_methods_are_compared_on_the_same_pairs_only() -> None:
    uneven = [a_row("a", "thing", "one", 0.5), a_row("a", "thing", "two", 0.5), a_row("b", "thing", "one", 0.5)]
    with pytest.raises(cl.InputError, match="on the same pairs"):
        summarise(uneven, reference=None)
    with pytest.raises(cl.InputError, match="methods: one"):
        summarise(uneven[:1], reference="grad_cam")
    with pytest.raises(cl.InputError, match="no row has a score"):
        summarise([], reference=None)


def test_cases_are_the_best_the_usual_and_the_worst(rows: list[Row]) -> None:
    ranks = [dataclasses.replace(a_row(f"p{i:02}", "thing", "one", i / 30)) for i in range(30)]
    cases = choose_cases(ranks, "one")
    assert [(c.kind, c.rows[0].photo) for c in cases] == [
        *(("best", f"p{i}") for i in (29, 28, 27)),
        *(("median", f"p{i}") for i in (15, 14, 16)),
        *(("worst", f"p0{i}") for i in (0, 1, 2)),
    ]
    cases = choose_cases(rows, "per_cell")
    chosen = [next(case for case in cases if case.kind == kind) for kind in ("best", "median", "worst")]
    shown = list(load_cases(DATA, BUILT, chosen))
    assert {s.case.kind for s in shown} == {"best", "median", "worst"}
    for one in shown:
        assert set(one.maps) == set(KNOWN)
        assert one.signed["per_cell"]
        assert not one.signed["ce_fam"]
        share = one.mask.mean()
        assert share == pytest.approx(one.case.rows[0].mask_share, abs=0.02)


REFUSED = {
    "unknown method": (lambda: method_names(["ce_fan"]), "ce_fam"),
    "no method": (lambda: method_names(["", " "]), "no method is named"),
    "no method given": (lambda: list(evaluate_localization(DATA, {})), "no method was given"),
    "share": (lambda: check_settings(1.0, 112, None), "from 0 to below 1"),
    "resolution": (lambda: check_settings(0.01, 1, None), "2 to 2048 pixels"),
    "large resolution": (lambda: check_settings(0.01, 2049, None), "2 to 2048 pixels"),
    "most": (lambda: check_settings(0.01, None, 0), "at least 1"),
    "no probe": (lambda: build_methods(["www"], MethodContext(MODEL, DATA.concepts)), "at least 10"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_what_to_do(case: str) -> None:
    given, part = REFUSED[case]
    with pytest.raises(cl.InputError, match=re.escape(part)):
        given()


def test_a_method_must_answer_every_question() -> None:
    (first, _) = evaluate_localization(TwoPhotos(), {"one map": lambda photo, concepts: flat(photo, concepts[:1])})
    assert isinstance(first, Failure)
    assert "expected 1 image and 2 questions" in first.reason


def test_maps_of_the_whole_set_that_were_made_elsewhere_are_scored_like_a_method() -> None:
    photos = [DATA[i] for i in range(3)]
    labels = tuple(concept.label for concept in DATA.concepts)
    made = [BUILT["ce_fam"](one.photo, DATA.concepts) for one in photos]
    infos = tuple(ImageInfo(one.name, fingerprint(one.photo)) for one in photos)
    maps = torch.cat([one.maps for one in made])
    mine = Explanation(
        maps, None, torch.zeros(maps.shape[:2]), (labels,) * 3, Source("mine", "", "mine", infos), activation="identity"
    )
    found = rows_of(*evaluate_localization(DATA, {"mine": mine, "ce_fam": BUILT["ce_fam"]}, max_photos=3))
    scores = {name: [row.scores for row in found if row.method == name] for name in ("mine", "ce_fam")}
    assert scores["mine"] == scores["ce_fam"]
    failed = [one for one in evaluate_localization(DATA, {"mine": mine}, max_photos=4) if isinstance(one, Failure)]
    assert [failure.reason.split(": ")[1][:26] for failure in failed] == ["there is no map of this ph"]
