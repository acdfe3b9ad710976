"""`conceptlens embed`, from the command line to the store: which masks, what failed, what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result
from written_sets import photo, write_json

from conceptlens.cli import app
from conceptlens.store import Store

pytestmark = pytest.mark.wide

BROKEN = "000000000002.jpg"


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def embed_photos(store: Path, image: str) -> list[tuple[str, float]]:
    """Return the concepts of a photo with the share that each mask covers."""
    opened = Store(store)
    ids = {row.id for row in opened.images() if row.name == image}
    rows = opened.embeddings()
    return sorted(
        (str(concept), round(float(area), 3))
        for concept, area, own in zip(rows.concepts, rows.areas, rows.images, strict=True)
        if own in ids
    )


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two photos with two triangles, a crowd and a dog each; the second cannot be read."""
    folder = tmp_path / "coco"
    entries = [
        ([0, 0, 100, 0, 0, 100], 1, 0),
        ([100, 0, 200, 0, 100, 100], 1, 0),
        ([0, 100, 40, 100, 40, 120, 0, 120], 1, 1),
        ([100, 100, 200, 100, 200, 120, 100, 120], 18, 0),
    ]
    for number in (1, 2):
        photo(folder / "val2017" / f"{number:012}.jpg", width=200, height=120)
    (folder / "val2017" / BROKEN).write_bytes((folder / "val2017" / BROKEN).read_bytes()[:300])
    listed = {
        "images": [{"id": n, "file_name": f"{n:012}.jpg", "width": 200, "height": 120} for n in (1, 2)],
        "annotations": [
            {
                "id": 10 * n + i, "image_id": n, "category_id": category, "iscrowd": crowd,
                "segmentation": {"size": [120, 200], "counts": _counts(corners)} if crowd else [corners],
                "bbox": [min(corners[::2]), min(corners[1::2]), max(corners[::2]) - min(corners[::2]),
                         max(corners[1::2]) - min(corners[1::2])],
            }
            for n in (1, 2)
            for i, (corners, category, crowd) in enumerate(entries)
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }  # fmt: skip
    write_json(folder / "annotations" / "instances_val2017.json", listed)
    return folder


def _counts(corners: list[int]) -> list[int]:
    """Run lengths, column by column, of the box of these corners in a photo of 120 rows and 200 columns."""
    left, top, right, bottom = min(corners[::2]), min(corners[1::2]), max(corners[::2]), max(corners[1::2])
    runs = [left * 120 + top]
    for column in range(left, right):
        runs += [bottom - top, 120 - bottom + top if column < right - 1 else 120 - bottom + 120 * (200 - right)]
    return runs


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], [("dog", 0.083), ("person", 0.411)]),
        (["--crowds", "join"], [("dog", 0.083), ("person", 0.444)]),
        (["--crowds", "skip"], [("dog", 0.083), ("person", 0.411)]),
        (["--crowds", "skip", "--by", "instance"], [("dog", 0.083), ("person", 0.205), ("person", 0.206)]),
        (["--crowds", "skip", "--shape", "box"], [("dog", 0.083), ("person", 0.833)]),
        (["--crowds", "skip", "--min-area", "0.1"], [("person", 0.411)]),
    ],
)
@pytest.mark.slow
def test_the_command_line_says_which_masks(
    coco: Path, tmp_path: Path, words: list[str], found: list[tuple[str, float]]
) -> None:
    done = call("embed", "--data", f"coco:{coco}", "--layers", "blocks.4", "--out-dir", tmp_path / "store", *words)
    assert done.exit_code == 1, done.output  # one photo is broken
    assert f"{BROKEN} is left out: " in done.stderr
    assert "of 1 photo at blocks.4 (mean_difference), 1 failed" in done.stdout
    printed = embed_photos(tmp_path / "store", "000000000001.jpg")
    assert [name for name, _ in printed] == [name for name, _ in found]
    assert [share for _, share in printed] == pytest.approx([share for _, share in found], abs=0.004)
    masks = Store(tmp_path / "store").runs()[0].settings["masks"]
    assert masks["crowds"] == (words[1] if "--crowds" in words else "ignore")


def test_numbers_name_failures_and_a_run_that_is_there_is_only_resumed(coco: Path, tmp_path: Path) -> None:
    words = ["embed", "--data", f"coco:{coco}", "--layers", "blocks.4", "--json", "--out-dir", tmp_path / "store"]
    done = call(*words)
    printed = json.loads(done.stdout)
    assert (printed["photos"], printed["embeddings"], [one["name"] for one in printed["failures"]]) == (2, 2, [BROKEN])
    again = call(*words)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    resumed = call(*words, "--resume")
    assert resumed.exit_code == 1
    assert {**json.loads(resumed.stdout), "seconds": 0} == {**printed, "seconds": 0}


def test_a_photo_that_was_mended_is_tried_again(coco: Path, tmp_path: Path) -> None:
    words = ["embed", "--data", f"coco:{coco}", "--layers", "blocks.4", "--json", "--out-dir", tmp_path / "store"]
    assert call(*words).exit_code == 1
    photo(coco / "val2017" / BROKEN, width=200, height=120)
    assert len(json.loads(call(*words, "--resume").stdout)["failures"]) == 1  # what is recorded stays
    done = call(*words, "--retry-failed")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert (printed["photos"], printed["embeddings"], printed["failures"]) == (2, 4, [])
    assert embed_photos(tmp_path / "store", BROKEN) == embed_photos(tmp_path / "store", "000000000001.jpg")
    assert Store(tmp_path / "store").runs()[0].counts == {"photos": 2, "embeddings": 4, "failures": 0}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--layers", ","], "--layers is ',', which names nothing"),
        (["--layers", "blocks.44"], "blocks.4"),
        (["--workers", "2"], "no effect without --engine ray"),
        (["--engine", "spark"], "--engine spark is given; expected local, process or ray"),
        (["--engine", "process", "--ray-address", "auto"], "--ray-address has no effect without --engine ray"),
        pytest.param(["--mode", "fast"], "fast", marks=pytest.mark.slow),
        pytest.param(["--noise", "rain:1"], "rain", marks=pytest.mark.slow),
        (["--seed", "7"], "--seed has no effect without --noise"),
        (["--ridge", "0.5"], "a ridge was given for mode mean_difference; only exact has one"),
        pytest.param(
            ["--crowds", "never"],
            "crowds='never' was given; expected one of 'ignore', 'join', 'skip'",
            marks=pytest.mark.slow,
        ),
        (["--data", "drawn:2", "--shape", "box"], "shape was chosen, which the masks of drawn do not have"),
        pytest.param(["--input-size", "0"], "input_size", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(
    coco: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    done = call("embed", "--data", f"coco:{coco}", "--out-dir", tmp_path / "store", *words)
    assert done.exit_code == 2, done.output
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert sentence in done.stderr
    assert not (tmp_path / "store").exists()


def test_a_share_beyond_one_is_refused(coco: Path, tmp_path: Path) -> None:
    done = call("embed", "--data", f"coco:{coco}", "--out-dir", tmp_path / "store", "--min-area", "1.5")
    assert done.exit_code == 2
    assert "--min-area" in done.stderr
