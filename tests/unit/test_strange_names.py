"""A run over photos whose names are no text, or that cannot be scaled: told, counted, and nothing is lost."""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision import transforms
from typer.testing import CliRunner, Result
from written_sets import left_half, palette, photo, write_text

import conceptlens as cl
from conceptlens.cli import app
from conceptlens.data.class_folder import ClassFolder
from conceptlens.data.mask_folder import MaskFolder
from conceptlens.discovery.photo_cells import photo_cells
from conceptlens.explainer.photo_run import ExplainOptions, explain_photos
from conceptlens.features.cell_source import CellSource
from conceptlens.io.errors import Failure, InputError
from conceptlens.model.preprocess import Preprocess
from conceptlens.store import Store

pytestmark = pytest.mark.wide

NAMES = (b"stra\xdfe.jpg", b"stra\xdee.jpg", b"plain.jpg", "straße.jpg".encode())
SHOWN = ["plain", "straße", "stra\ufffde", "stra\ufffde (2)"]
MODEL = ("--model", "timm:test_resnet", "--no-pretrained")


def photos(folder: Path) -> Path:
    """Save photos with names of Latin-1, of UTF-8 and of ASCII; skip where the file system refuses them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        try:
            photo(Path(os.fsdecode(os.fsencode(folder) + b"/" + name)), 64, 48)
        except OSError:
            pytest.skip("this file system holds names of UTF-8 alone")
    return folder


def masks(folder: Path) -> Path:
    photos(folder / "images")
    for name in NAMES:
        png = os.fsencode(folder) + b"/masks/" + name.removesuffix(b".jpg") + b".png"
        palette(Path(os.fsdecode(png)), left_half(64, 48))
    write_text(folder / "labels.txt", "red")
    return folder


def call(*words: object) -> Result:
    torch.manual_seed(0)  # of random weights
    return CliRunner().invoke(app, [str(word) for word in words])


def shell(*words: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "conceptlens", *map(str, words)]
    known = {name: value for name, value in os.environ.items() if name not in ("PYTHONIOENCODING", "PYTHONUTF8")}
    return subprocess.run(command, capture_output=True, check=False, timeout=300, env=known | environment)


CODE_PAGES = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "cp1252"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize(
    "environment",
    [pytest.param(one, marks=pytest.mark.slow if place else ()) for place, one in enumerate(CODE_PAGES)],
    ids=lambda one: next(iter(one.values())),
)
def test_every_photo_is_explained_in_any_code_page(tmp_path: Path, environment: dict[str, str]) -> None:
    folder = photos(tmp_path / "photos")
    done = shell(
        "explain", folder, "--concepts", "cat, 猫", "--regions", "coarse", "--out-dir", tmp_path / "out", **environment
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr
    assert done.stdout.count(b"stra") == 3
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "stra\ufffde.jpg" in page
    numbers = (tmp_path / "out" / "explain.json").read_text(encoding="ascii")
    assert "\\udc" not in numbers
    shown = sorted(Path(image["image"]).name for image in json.loads(numbers)["images"])
    assert shown == ["plain.jpg", "straße.jpg", "stra\ufffde.jpg", "stra\ufffde.jpg"]


@pytest.mark.parametrize(
    "command",
    [["models", "--help"], ["--help"], pytest.param(["models", "resnet18"], marks=pytest.mark.slow)],
    ids=" ".join,
)
def test_help_and_lists_in_ascii(command: list[str]) -> None:
    done = shell(*command, PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 0, done.stderr
    done.stdout.decode("ascii")


@pytest.mark.slow
def test_an_error_about_a_strange_name_is_one_sentence(tmp_path: Path) -> None:
    gone = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    for environment in ({"PYTHONIOENCODING": "utf-8"}, {"PYTHONIOENCODING": "ascii"}):
        done = shell("explain", gone, "--concepts", "cat", "--json", **environment)
        assert done.returncode == 2
        assert b"\\udce9" not in done.stderr + done.stdout
        assert b"Traceback" not in done.stderr


def test_a_store_of_strange_names(tmp_path: Path) -> None:
    data, store = masks(tmp_path / "set"), tmp_path / "store"
    made = MaskFolder(data)
    assert sorted(made.names) == sorted(SHOWN)
    assert sorted(one.name for one in made) == sorted(SHOWN)
    done = call("embed", "--data", f"masks:{data}", "--out-dir", store, *MODEL, "--layers", "layer4", "--json")
    assert done.exit_code == 0, done.output
    opened = Store(store)
    assert sorted(row.name for row in opened.images()) == sorted(SHOWN)
    again = call("embed", "--data", f"masks:{data}", "--out-dir", store, *MODEL, "--layers", "layer4", "--resume")
    assert again.exit_code == 0, again.output
    assert len(Store(store).images()) == len(SHOWN)


def test_rows_of_a_store_take_any_name(tmp_path: Path) -> None:
    from conceptlens.store.columns import image_columns
    from conceptlens.store.row import ImageRow, row_id

    name = "caf\udce9.png"
    table = image_columns([ImageRow(row_id("set", name), "run", name, failure=f"no file {name}")])
    assert table["name"].to_pylist() == ["caf\ufffd.png"]
    assert table["failure"].to_pylist() == ["no file caf\ufffd.png"]


def test_an_evaluation_of_strange_names(tmp_path: Path) -> None:
    data, out = masks(tmp_path / "set"), tmp_path / "out"
    palette(data / "masks" / "lonely.png", left_half())
    done = call(
        "evaluate", "localization", "--data", f"masks:{data}", "--methods", "grad_cam, centre", "--out-dir", out,
        "--json", "--ignore", "200,201", *MODEL,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = pq.read_table(out / "localization.parquet")["photo"].to_pylist()
    assert set(rows) == set(SHOWN)
    page = (out / "localization.html").read_text(encoding="utf-8")
    assert "masks/lonely.png: a mask without a photo" in page
    numbers = json.loads((out / "localization.json").read_text(encoding="ascii"))
    assert numbers["left_out"] == [{"name": "masks/lonely.png", "reason": "a mask without a photo"}]
    assert "masks/lonely.png is left out" in done.stderr


def test_classes_and_tables_of_strange_names(tmp_path: Path) -> None:
    for kind in (b"caf\xe9", b"caf\xe8", b"tea"):
        photos(Path(os.fsdecode(os.fsencode(tmp_path) + b"/set/" + kind)))
    whole = ClassFolder(tmp_path / "set")
    assert whole.classes == ("caf\ufffd", "caf\ufffd (2)", "tea")
    assert len(set(whole.names)) == 12
    "\n".join(whole.names).encode()
    assert [whole[index].size for index in range(3)] == 3 * [(64, 48)]
    from conceptlens.bottleneck.report.bottleneck_files import _write_rows

    _write_rows(tmp_path / "photos.csv", [{"photo": "caf\udce9.png", "class": "é"}])
    with (tmp_path / "photos.csv").open(encoding="utf-8", newline="") as opened:
        assert list(csv.DictReader(opened)) == [{"photo": "caf\ufffd.png", "class": "é"}]


# Photos that would be scaled to gigabytes


def thin(path: Path, width: int = 60_000, height: int = 9) -> Path:
    Image.new("L", (width, height), 90).save(path)
    return path


def small_model(transform: object = None) -> cl.Backbone:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 5, 3, 2, 1))
    whole = torch.nn.Sequential(module, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    view: Any = transform or Preprocess((224, 224))
    return cl.Backbone(whole, layers=["0"], transform=view, class_names=list("abcde"))


@pytest.mark.parametrize("size", [(60_000, 9), (9, 60_000)])
@pytest.mark.parametrize("own", [False, True])
def test_a_thin_photo_is_refused_in_bounded_memory(tmp_path: Path, size: tuple[int, int], own: bool) -> None:
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    model = small_model(transforms.Compose(steps) if own else None)
    file = thin(tmp_path / "thin.png", *size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"is scaled to .*, more than 100 megapixels, before it is cropped"):
        model.observe(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_a_thin_photo_leaves_the_others(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", 64, 48)
    thin(tmp_path / "b.png")
    photo(tmp_path / "c.jpg", 64, 48)
    model, files = small_model(), sorted(tmp_path.iterdir())
    found = list(explain_photos(model, files, ExplainOptions(with_concepts=False), batch_size=3))
    assert [isinstance(one, Failure) for one in found] == [False, True, False]
    assert isinstance(found[1], Failure)
    assert "b.png" in found[1].reason
    failures: list[Failure] = []
    (cells,) = photo_cells(model, files, "0", 3, failures)
    assert (len(cells.files), len(failures)) == (2, 1)


def test_a_thin_photo_of_a_class_is_a_failure(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        photo(tmp_path / kind / "a.jpg", 64, 48)
    thin(tmp_path / "dog" / "thin.png")
    source = CellSource(small_model(), ClassFolder(tmp_path), ("0",), (4, 4))
    assert source.readable_indices([0, 1, 2]) == [0, 1]
    read = [index for batch in source.batches([0, 1, 2], 4) for index in batch.indices.tolist()]
    assert read == [0, 1]
    assert list(source.failures) == [2]


def test_long_photos_are_read_as_before() -> None:
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 3000, 3), dtype=np.uint8))
    preparation = Preprocess((64, 64))
    assert tuple(preparation(wide).shape) == (3, 64, 64)
    assert Preprocess((224, 224), crop_mode="squash")(Image.new("RGB", (60_000, 9))).shape == (3, 224, 224)
