"""True classes of photos: from folders and tables to the names that the model has, and into the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from explain_process import NAMES, explained, small_classifier, written_photos
from typer.testing import CliRunner

from conceptlens.cli import app
from conceptlens.explainer.runs.true_classes import true_classes
from conceptlens.io.errors import InputError
from conceptlens.store import ExplanationStore


def photo_paths(folder: Path, *names: str) -> list[Path]:
    return [folder / name for name in names]


def test_a_folder_is_a_class_by_name_synonym_number_or_index(tmp_path: Path) -> None:
    photos = photo_paths(tmp_path, "tabby cat/a.png", "Zebra/b.png", "2/c.png", "n02391049/d.png")
    assert true_classes("folders", photos, small_classifier()) == [NAMES[0], "zebra", "espresso", "zebra"]


def test_a_table_names_photos_by_the_end_of_their_paths(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("Class, photo ,note\nespresso,x/a.png,1\n,x/b.png,2\nzebra,gone.png,3\n1,y/a.png,4\n", "utf-8")
    photos = photo_paths(tmp_path, "y/a.png", "x/a.png", "x/b.png")
    assert true_classes(str(table), photos, small_classifier()) == [NAMES[1], "espresso", ""]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("photo,class\nx/a.png,espreso\ny/a.png,zebra", "line 2: no class 'espreso' in small; near names: espresso"),
        ("photo,class\nx/a.png,ox\ny/a.png,yak", r"\(1 more are unknown: yak\)"),
        ("photo,class\nx/a.png,4\ny/a.png,zebra", "no class 4 in small, whose classes are 0 to 3"),
        ("photo,class\na.png,zebra", "line 2: 'a.png' may be .*x/a.png' and .*y/a.png'; write more of its path"),
        ("photo,class\nx/a.png,zebra", "y/a.png' has no row in .*; add one, with an empty class"),
        ("photo,class\nx/a.png,zebra\nx/a.png,zebra\ny/a.png,", "line 3: 'x/a.png' has line 2 too; leave one out"),
        ("photo,label\nx/a.png,zebra", "has the columns photo, label; expected photo and class"),
        ("photo,class\nx/a.png", "line 2: 1 cells; expected 2"),
        ('photo,class\n"x/a.png,zebra', "save it as a plain CSV table"),
    ],
)
def test_what_a_table_leaves_open_is_refused(tmp_path: Path, rows: str, said: str) -> None:
    (tmp_path / "labels.csv").write_text(rows, "utf-8")
    with pytest.raises(InputError, match=said):
        true_classes(str(tmp_path / "labels.csv"), photo_paths(tmp_path, "x/a.png", "y/a.png"), small_classifier())
    with pytest.raises(InputError, match="--labels is 'folder'; give --labels folders, or a table"):
        true_classes("folder", photo_paths(tmp_path, "x/a.png"), small_classifier())


@pytest.mark.wide
def test_labels_lie_in_the_store_and_a_resumed_run_must_agree(tmp_path: Path) -> None:
    photos = written_photos(tmp_path / "photos", 4)
    labels = ["zebra", "", "espresso", NAMES[0]]
    store, _ = explained(tmp_path / "store", photos[:3], true_classes=labels[:3])
    with pytest.raises(InputError, match=r"000.png' is labelled 'espresso' and was 'zebra' before in this run"):
        explained(tmp_path / "store", photos, true_classes=["espresso", *labels[1:]], resume=True)
    with pytest.raises(InputError, match="the last one has labels True; give the same"):
        explained(tmp_path / "store", photos, resume=True)
    _, last = explained(tmp_path / "store", photos, true_classes=labels, resume=True)
    assert (last.before, last.photos) == (3, 4)
    rows = store.table("explained").to_pylist()
    assert {Path(row["photo"]).name: row["true_class"] for row in rows} == dict(
        zip(("000.png", "001.png", "002.png", "003.png"), labels, strict=True)
    )


@pytest.mark.wide
def test_the_command_takes_labels_and_refuses_unknown_ones_before_there_is_a_store(tmp_path: Path) -> None:
    torch.manual_seed(0)
    written_photos(tmp_path / "photos" / "zebra", 2)
    words = ["explain", str(tmp_path / "photos"), "--no-pretrained", "--regions", "official", "--labels", "folders"]
    runner = CliRunner()
    refused = runner.invoke(app, words)
    assert "--labels has no effect without --store DIR" in refused.stderr
    words += ["--store", str(tmp_path / "store"), "--json"]
    done = runner.invoke(app, words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["explained"] == 2
    rows = ExplanationStore(tmp_path / "store").table("explained").to_pylist()
    assert [row["true_class"] for row in rows] == ["zebra"] * 2
    written_photos(tmp_path / "photos" / "zebrra", 1)
    words[words.index("--store") + 1] = str(tmp_path / "other")
    unknown = runner.invoke(app, words)
    assert unknown.exit_code == 2
    assert "zebrra'" in unknown.stderr
    assert "near names: zebra" in unknown.stderr
    assert not (tmp_path / "other").exists()
