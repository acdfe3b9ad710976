"""Photos of a store found again in its data set, whose masks are read as the store's run read them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result
from written_sets import palette, photo

from conceptlens.cli import app
from conceptlens.data.masked_sets import open_set
from conceptlens.io.errors import InputError
from conceptlens.local_embeddings.report.embedded_photos import check_photos, find_photos
from conceptlens.local_embeddings.runs.embed_plan import EmbedPlan
from conceptlens.model.zoo import load_model
from conceptlens.store import ImageRow, RunRow, Store
from conceptlens.store.stored_run import run_id


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def objects(place: Path, names: tuple[str, ...] = ("one", "two")) -> Path:
    """A folder of photos that opens only by instance and reads only with 255 ignored."""
    for name in names:
        photo(place / "images" / f"{name}.jpg", width=64, height=48)
        for kind, left in (("cat", 0), ("dog", 32)):
            ids = np.zeros((48, 64), np.uint8)
            ids[:, left : left + 15], ids[:, left + 15 : left + 30] = 1, 2
            ids[:8, left : left + 30] = 255
            palette(place / "masks" / kind / f"{name}.png", ids)
    return place


def run(store: Store, data: str, started: str, **masks: str) -> None:
    settings = {"data": data, "masks": masks, "layers": ["a"]}
    store.write_run(RunRow(run_id(settings), settings, started))


def image(name: str) -> ImageRow:
    return ImageRow(name, "a run", name, width=64, height=48)


def found(store: Store, source: Path, split: str | None = None) -> list[str]:
    return [row.name for row, _ in find_photos(f"masks:{source}", [image("one"), image("two")], store, split)]


def test_a_set_is_opened_with_the_choices_of_the_run_that_embedded_it(tmp_path: Path) -> None:
    folder, store = objects(tmp_path / "mine"), Store(tmp_path / "store", create=True)
    with pytest.raises(InputError):
        check_photos(f"masks:{folder}", store)
    run(store, "masks mine", "2026-01-01", by="instance", ignore="255")
    check_photos(f"masks:{folder}", store)
    assert found(store, folder) == ["one", "two"]


def test_of_several_runs_that_of_the_set_says_how_it_is_read(tmp_path: Path) -> None:
    folder, store = objects(tmp_path / "mine"), Store(tmp_path / "store", create=True)
    run(store, "masks mine", "2026-01-01", by="instance", ignore="255")
    run(store, "masks other", "2026-01-02", by="instance", ignore="")  # later, and each photo would fail with it
    run(store, "coco val2017", "2026-01-03", by="category", crowds="skip", shape="box")  # this set does not open so
    assert found(store, folder) == ["one", "two"]


def test_photos_of_a_split_and_of_a_set_not_embedded_are_found_too(tmp_path: Path) -> None:
    folder, store = objects(tmp_path / "mine"), Store(tmp_path / "store", create=True)
    run(store, "masks once called so", "2026-01-01", by="instance", ignore="255")
    assert found(store, folder) == ["one", "two"]
    drawn = open_set("drawn:2")
    rows = [ImageRow(name, "a run", name) for name in drawn.names]
    assert [row.name for row, _ in find_photos("drawn:2", rows, store)] == drawn.names


def test_what_cannot_be_opened_by_any_run_is_refused_as_the_last_one_read_it(tmp_path: Path) -> None:
    folder, store = objects(tmp_path / "mine"), Store(tmp_path / "store", create=True)
    run(store, "coco val2017", "2026-01-03", by="category", crowds="skip")
    with pytest.raises(InputError, match="labels"):
        check_photos(f"masks:{folder}", store)


@pytest.mark.wide
@pytest.mark.slow
def test_analyze_and_search_show_photos_of_a_run_by_instance(tmp_path: Path) -> None:
    folder, store = objects(tmp_path / "mine", ("one", "two", "three")), tmp_path / "store"
    done = call("embed", "--data", f"masks:{folder}", "--by", "instance", "--ignore", "255", "--layers", "blocks.4",
                "--out-dir", store)  # fmt: skip
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    done = call("analyze", store, "--photos", f"masks:{folder}", "--out-dir", out, "--n-bootstrap", 10)
    assert done.exit_code == 0, done.output
    assert "no photos were given" not in (out / "analysis.html").read_text(encoding="utf-8").lower()
    part = np.zeros((48, 64), np.uint8)
    part[:, :30] = 255
    Image.fromarray(part).save(tmp_path / "part.png")
    page = tmp_path / "found.html"
    done = call("search", store, "--image", folder / "images" / "one.jpg", "--mask", tmp_path / "part.png",
                "--photos", f"masks:{folder}", "--out", page)  # fmt: skip
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg") > 5
    assert "data:image/png" not in text


def test_what_a_run_records_of_masks_opens_the_set_again(tmp_path: Path) -> None:
    opened = open_set(f"masks:{objects(tmp_path / 'mine')}", by="instance", ignore=[255, 7])
    settings = EmbedPlan(("blocks.4",)).settings(load_model(crop_mode="squash"), opened)
    again = json.loads(json.dumps(settings["masks"]))
    assert open_set(f"masks:{tmp_path / 'mine'}", **again).names == opened.names
    assert again["ignore"] == "7, 255"
