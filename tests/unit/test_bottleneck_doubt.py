"""How far the maps of a bottleneck can be trusted, and AUROC by a table of concepts in a plain folder of photos."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import bottlenecks
import conceptlens as cl
from coloured_birds import CLASSES, CONCEPTS, birds_seen
from conceptlens.bottleneck.evaluate.activation_table import read_table
from conceptlens.bottleneck.evaluate.bottleneck_evaluation import evaluate_bottleneck
from conceptlens.bottleneck.evaluate.bottleneck_result import BottleneckResult, bottleneck_json
from conceptlens.bottleneck.evaluate.case_selection import CaseSelection, select_cases
from conceptlens.bottleneck.evaluate.evaluation_metrics import HEADS, LEAKAGES
from conceptlens.bottleneck.evaluate.intervention_curve import CONTROL, PERCENTILES, PRESENCE_MEANS
from conceptlens.bottleneck.evaluate.place_checks import record_checks
from conceptlens.bottleneck.fit.content_mark import content_mark, photos_mark
from conceptlens.bottleneck.map_evidence import LEARNED_FROM, MapEvidence, PlaceCheck, evidence_lines
from conceptlens.bottleneck.module import Bottleneck
from conceptlens.bottleneck.report.bottleneck_sentences import opening
from conceptlens.data.class_folder import ClassFolder
from conceptlens.data.cub import Cub

LABELS = [concept.label for concept in CONCEPTS]
UNCHECKED = "place not checked: no mask or keypoint says where this is"
OF_CLASSES = "learned from class labels only: the map may follow the class, not the concept"
UNKNOWN = "not known how its targets were made"


@pytest.fixture(scope="module")
def plain(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The birds in plain folders of classes, `train` and `test`: nothing is known but the class of each."""
    folder = tmp_path_factory.mktemp("plain")
    for split in ("train", "test"):
        own = Cub(birds, split)
        for photo, name, label in zip(own, own.names, own.labels, strict=True):
            place = folder / split / own.classes[label] / Path(name).name
            place.parent.mkdir(parents=True, exist_ok=True)
            photo.save(place)
    return folder


def seen(model: cl.Backbone, birds: Path, **record: object) -> Bottleneck:
    """A bottleneck whose record says more."""
    made = birds_seen(model, birds)
    made.training_record |= record
    return made


def class_rows(names: Sequence[str] = tuple(CLASSES), columns: Sequence[str] = tuple(LABELS[:4])) -> list[str]:
    """A row of each class: 0.9 where it has a concept's colour, as CUB's attributes of the birds say."""
    shares = [
        [name, *("0.9" if one.split()[0] in CLASSES.get(name, ()) else "0.1" for one in columns)] for name in names
    ]
    return [",".join(row) for row in (["name", *columns], *shares)]


def written(place: Path, rows: Sequence[str]) -> Path:
    place.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return place


def photo_rows(photos: ClassFolder, known: Sequence[bool]) -> list[str]:
    """A row of each photo, whose bill is known of some alone; the last photo has no row at all."""
    rows = ["name,red bill,green wing"]
    for name, label, told in zip(photos.names[:-1], photos.labels, known, strict=False):
        bill, wing = CLASSES[photos.classes[label]]
        rows.append(f"{name},{int(bill == 'red') if told else ''},{int(wing == 'green')}")
    return rows


# --- what is known of maps


def test_a_bottleneck_from_before_says_that_it_is_not_known(
    spotter: Bottleneck, bird_model: cl.Backbone, birds: Path, tmp_path: Path
) -> None:
    again = Bottleneck.from_pretrained(spotter.save_pretrained(tmp_path))
    assert {(one.place, one.learned) for one in again.map_evidence} == {(UNCHECKED, UNKNOWN)}
    found = again.explain(again.observe(bird_model, Cub(birds, "test")[0]), top=2)
    (names,) = found.labels
    assert found.source.settings["map_evidence"] == {name: [UNCHECKED, UNKNOWN] for name in names}
    assert bool(found.diagnostics["pointing"].isnan().all())
    assert "map_evidence" not in found.components[0].source.settings  # of maps before the locator nothing was checked


@pytest.mark.parametrize(
    "record", [{"targets_of": "classes"}, {"place_checks": {"red bill": {"photos": 8}}}, {"place_checks": 3}]
)
def test_a_record_that_is_broken_is_refused(spotter: Bottleneck, tmp_path: Path, record: dict[str, object]) -> None:
    spotter.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    config["training"] |= record
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(cl.InputError, match=r"config\.json does not fit together"):
        Bottleneck.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", LEARNED_FROM)
def test_what_a_concept_was_learned_from_is_said_in_plain_words(kind: str) -> None:
    one = MapEvidence(kind)
    assert one.learned == ": ".join(LEARNED_FROM[kind])
    assert one.learned.startswith(one.learned_briefly)
    assert one.place_in_doubt


def test_parts_that_keypoints_taught_are_told_from_those_that_nothing_taught() -> None:
    made = bottlenecks.made("parts")
    assert [one.taught for one in made.map_evidence] == [False] * 5
    made.training_record = {"keypoints": 1, "targets_of": {"red wing": "classes", "water": "no such kind"}}
    assert [one.taught for one in made.map_evidence] == [True, True, True, False, True]
    assert made.map_evidence[0].place_briefly == "place taught by keypoints, not checked"
    assert [one.targets for one in made.map_evidence] == ["classes", None, None, None, None]


def test_lines_hold_every_concept_once_for_its_place_and_once_for_its_targets() -> None:
    check = PlaceCheck("birds", 8, 0.5, False)
    some = [MapEvidence("classes", check), MapEvidence("vlm", replace(check, nearer=True)), MapEvidence("classes")]
    assert evidence_lines(["a", "b", "c"], some) == [
        "place checked against keypoints, and no nearer to the part than one fixed cell (a)",
        "place checked against keypoints (b)",
        f"{UNCHECKED} (c)",
        f"{OF_CLASSES} (a, c)",
        "learned from a vision-language model: it scored whole photos, and nobody checked its scores (b)",
    ]
    assert evidence_lines([str(number) for number in range(99)], [MapEvidence()] * 99) == [
        f"{UNCHECKED} (all 99 concepts)",
        f"{UNKNOWN} (all 99 concepts)",
    ]
    many = evidence_lines([str(number) for number in range(15)], [MapEvidence()] * 14 + [MapEvidence("vlm")])
    assert many[1].endswith("(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more)")
    assert [one.place_in_doubt for one in some] == [True, False, True]


def test_what_was_checked_is_kept_in_the_folder_and_told_by_explanations(
    bird_model: cl.Backbone, birds: Path, tmp_path: Path
) -> None:
    made = seen(bird_model, birds, targets_of=dict.fromkeys(LABELS, "classes"))
    made.save_pretrained(tmp_path)
    found = evaluate_bottleneck(made, bird_model, Cub(birds, "test"), Cub(birds, "train"), n_bootstrap=20)
    checked = f"place checked against keypoints in {found.concepts[2].keypoint_photos} photos of cub test: its highest "
    assert [one.place_checked for one in _rows(found)] == [True] * 4 + [False]
    assert _rows(found)[2].place.startswith(checked)
    assert _rows(found)[4].place == UNCHECKED
    assert {one.learned for one in _rows(found)} == {OF_CLASSES}
    assert all(one.check is None for one in made.map_evidence)  # until it is recorded
    assert record_checks(tmp_path, made, found) == 4

    kept = Bottleneck.from_pretrained(tmp_path)
    assert kept.map_evidence == found.map_evidence
    assert torch.equal(kept.weight, made.weight)
    assert torch.equal(kept.head.weight, made.head.weight)
    told = kept.explain(kept.observe(bird_model, Cub(birds, "test")[0]), top=3)
    row = [LABELS.index(label) for label in told.labels[0]]
    expected = [found.concepts[index].pointing for index in row]
    for value, other in zip(told.diagnostics["pointing"][0].tolist(), expected, strict=True):
        assert math.isnan(value) if other is None else value == pytest.approx(other)
    places = told.source.settings["map_evidence"]
    assert places == {LABELS[i]: [found.map_evidence[i].place, OF_CLASSES] for i in row}


def test_a_later_evaluation_without_keypoints_keeps_what_was_checked_before(
    bird_model: cl.Backbone, birds: Path, plain: Path, tmp_path: Path
) -> None:
    check = {"data": "cub test", "photos": 8, "pointing": 0.25, "nearer": False}
    made = seen(bird_model, birds, place_checks={"red bill": check})
    found = evaluate_bottleneck(made, bird_model, ClassFolder(plain, "test"), n_bootstrap=20)
    assert [one.place_checked for one in _rows(found)] == [True] + [False] * 4
    assert _rows(found)[0].place == (
        "place checked against keypoints in 8 photos of cub test: its highest point is at the part in 25%, no nearer "
        "than one fixed cell"
    )
    assert record_checks(tmp_path, made, found) == 0
    assert not list(tmp_path.iterdir())


def _rows(found: BottleneckResult) -> list[SimpleNamespace]:
    """What JSON says of each concept."""
    return [SimpleNamespace(**one) for one in json.loads(json.dumps(bottleneck_json(found)))["concepts"]]


# --- a table of concepts


def test_a_table_of_classes_measures_in_a_plain_folder_what_class_attributes_do(
    spotter: Bottleneck, bird_model: cl.Backbone, birds: Path, plain: Path, tmp_path: Path
) -> None:
    table = written(tmp_path / "shown.csv", class_rows())
    own = evaluate_bottleneck(
        spotter, bird_model, Cub(birds, "test"), Cub(birds, "train"), None, None, True, True, n_bootstrap=20
    )
    sets = ClassFolder(plain, "test"), ClassFolder(plain, "train")
    bare = evaluate_bottleneck(spotter, bird_model, *sets, n_bootstrap=20)
    found = evaluate_bottleneck(spotter, bird_model, *sets, None, None, True, True, n_bootstrap=20, table=table)
    assert bare.metric("concept_auroc").value is None
    assert "(--table)" in bare.metric("concept_auroc").reason
    assert [(one.auroc, one.photos) for one in found.concepts] == [(one.auroc, one.photos) for one in own.concepts]
    assert own.concepts[0].auroc is not None
    for name in ("concept_auroc", "accuracy"):
        values = [one.metric(name).value for one in (found, own)]
        assert values[0] is not None
        assert values[1] is not None
        assert values[0].mean == pytest.approx(values[1].mean, abs=1e-9)
    assert all(found.metric(name).value is not None for name in LEAKAGES)
    assert list(found.interventions.curves) == [PERCENTILES, PRESENCE_MEANS, CONTROL]
    assert (found.labels_of, found.n_labelled, bare.labels_of) == ("classes", 4, None)
    assert "table of concepts" in found.presence


def test_a_table_of_photos_counts_each_where_something_is_known_of_it(
    spotter: Bottleneck, bird_model: cl.Backbone, plain: Path, tmp_path: Path
) -> None:
    photos = ClassFolder(plain, "test")
    known = [number % 3 != 1 for number in range(len(photos))]
    table = written(tmp_path / "shown.csv", photo_rows(photos, known))
    train = ClassFolder(plain, "train")
    found = evaluate_bottleneck(spotter, bird_model, photos, train, None, None, True, True, n_bootstrap=20, table=table)
    active = read_table(spotter, bird_model, photos).activations
    for concept, colour, seen_of in ((0, "red", known), (2, "green", [True] * len(photos))):
        pairs = []
        rows = [row for row in range(len(photos) - 1) if seen_of[row]]
        shows = {row: colour in CLASSES[photos.classes[photos.labels[row]]] for row in rows}
        for a in (row for row in rows if shows[row]):
            for b in (row for row in rows if not shows[row]):
                gap = float(active[a, concept] - active[b, concept])
                pairs.append(0.5 if gap == 0 else float(gap > 0))
        assert len(pairs) > 20
        assert found.concepts[concept].auroc == pytest.approx(sum(pairs) / len(pairs))
        assert found.concepts[concept].photos == sum(shows.values())
    assert (found.labels_of, found.n_labelled) == ("photos", 2)
    assert found.concepts[1].auroc is None
    assert {found.metric(name).reason for name in LEAKAGES} == {
        "it is not known of every photo which concepts it shows"
    }
    assert list(found.interventions.curves) == [PERCENTILES, CONTROL]  # nothing is known of the train photos
    meant = next(
        line
        for line in opening(found, select_cases(spotter, found.table, CaseSelection()), LABELS, {})
        if "mean what" in line["question"]
    )
    assert meant["answer"].endswith("Labels are of single photos.")


def test_heads_are_not_fitted_to_train_photos_that_a_table_of_photos_does_not_label(
    spotter: Bottleneck, bird_model: cl.Backbone, plain: Path, tmp_path: Path
) -> None:
    photos = ClassFolder(plain, "test")
    rows = photo_rows(photos, [True] * len(photos))
    rows.append(f"{photos.names[-1]},0,0")
    table = written(tmp_path / "shown.csv", rows)
    for train, measured in ((ClassFolder(plain, "train"), False), (photos, True)):
        found = evaluate_bottleneck(spotter, bird_model, photos, train, None, None, True, n_bootstrap=20, table=table)
        for name in HEADS:
            assert (found.metric(name).value is not None) == measured
        assert found.metric("impurity_niche").value is not None
    assert found.metric("concept_auroc").value is not None


def test_classes_may_be_fewer_than_the_tables(
    spotter: Bottleneck, bird_model: cl.Backbone, plain: Path, tmp_path: Path
) -> None:
    for name in ("robin", "tit"):
        (tmp_path / "few" / name).mkdir(parents=True)
        for file in (plain / "test" / name).iterdir():
            (tmp_path / "few" / name / file.name).write_bytes(file.read_bytes())
    table = written(tmp_path / "shown.csv", class_rows())
    found = evaluate_bottleneck(spotter, bird_model, ClassFolder(tmp_path / "few"), n_bootstrap=20, table=table)
    assert [one.photos for one in found.concepts] == [5, 5, 5, 5, None]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            class_rows(columns=("gold beak", "hat")),
            "names none of the 5 concepts of the bottleneck (red bill, blue bill,",
        ),
        (
            class_rows(columns=("red bill", "red bil")),
            "has the column 'red bil', which is no concept of the bottleneck; near",
        ),
        (class_rows(("robin", "jay", "finch", "tit", "crow")), "line 6: no class of the set is called 'crow'"),
        (class_rows(("robin", "jay", "finch")), "has no row for the class 'tit'; write one for each class"),
        (["name,red bill", "other/photo.png,1"], "has no row of a class or photo of the set"),
    ],
)
def test_a_table_of_others_is_refused(
    spotter: Bottleneck, bird_model: cl.Backbone, plain: Path, tmp_path: Path, rows: list[str], sentence: str
) -> None:
    table = written(tmp_path / "shown.csv", rows)
    with pytest.raises(cl.InputError) as refused:
        evaluate_bottleneck(spotter, bird_model, ClassFolder(plain, "test"), table=table)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_table_of_the_fit_may_have_columns_that_the_fit_left_out(
    bird_model: cl.Backbone, birds: Path, plain: Path, tmp_path: Path
) -> None:
    test = ClassFolder(plain, "test")
    dropped = written(tmp_path / "dropped.csv", class_rows(columns=("red bill", "striped tail")))
    assert evaluate_bottleneck(
        birds_seen(bird_model, birds), bird_model, test, n_bootstrap=20, table=dropped
    ).n_labelled
    unused = written(tmp_path / "unused.csv", class_rows(columns=("red bill", "hat")))
    made = seen(bird_model, birds, targets=content_mark(unused))
    renamed = written(tmp_path / "renamed.csv", class_rows(columns=("red bill", "hat")))
    assert evaluate_bottleneck(made, bird_model, test, n_bootstrap=20, table=renamed).n_labelled == 1


def test_the_fits_table_of_photos_is_refused_for_others_of_the_same_names(
    bird_model: cl.Backbone, birds: Path, plain: Path, tmp_path: Path
) -> None:
    for split in ("train", "test"):  # two folders whose photos are called alike
        for number, name in enumerate(CLASSES):
            place = tmp_path / split / name
            place.mkdir(parents=True)
            photo = sorted((plain / split / name).iterdir())[0]
            (place / f"{number}.png").write_bytes(photo.read_bytes())
    train, test = ClassFolder(tmp_path / "train"), ClassFolder(tmp_path / "test")
    assert train.names == test.names
    rows = ["name,red bill", *(f"{name},{number % 2}" for number, name in enumerate(train.names))]
    table = written(tmp_path / "shown.csv", rows)
    made = seen(bird_model, birds, targets=content_mark(table), photos=photos_mark(train))
    assert evaluate_bottleneck(made, bird_model, train, n_bootstrap=20, table=table).labels_of == "photos"
    with pytest.raises(
        cl.InputError, match=r"speaks of the photos of the fit \(train all 4 photos\), and test all was"
    ):
        evaluate_bottleneck(made, bird_model, test, n_bootstrap=20, table=table)
