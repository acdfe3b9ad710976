"""Exports hold all that is committed and nothing else, other tools read them, and importing makes an equal store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from store_rows import RUN, batch, contents

from conceptlens.io.errors import InputError
from conceptlens.store import RunRow, Store, export, import_export, lance_tables
from conceptlens.store.exchange import FORMS

pytestmark = pytest.mark.wide

ENDINGS = {"parquet": ".parquet", "numpy": ".npz", "safetensors": ".safetensors"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made_store = Store(tmp_path / "store", create=True)
    for number in range(3):
        made_store.append(**batch(number, concepts=4))
    made_store.write_run(RunRow(RUN, {"layers": ("a", "b")}, "2026-01-01T00:00:00+00:00"))
    return made_store


@pytest.mark.parametrize("form", FORMS)
def test_an_import_of_an_export_is_an_equal_store(
    store: Store, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conceptlens.store.exchange._ROWS", 7)
    written = lance_tables.merge
    with monkeypatch.context() as patched:  # half a batch, which is not exported
        patched.setattr(lance_tables, "merge", lambda *given, **named: given[2] == "images" or written(*given, **named))
        store.append(**batch(7))
    folder = export(store, tmp_path / "out" / form, form)
    again = import_export(folder, tmp_path / "again")
    assert contents(again) == contents(store)
    assert len(lance_tables.read(again.path, again._database, "masks")) == 48
    assert contents(import_export(folder, again.path)) == contents(store)
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        ["format.json", *(f"{name}{ENDINGS[form]}" for name in lance_tables.tables(store.path))]
    )


def test_other_tools_read_them(store: Store, tmp_path: Path) -> None:
    rows = store.embeddings(layer="layer6")
    parquet = pq.read_table(export(store, tmp_path / "p") / "embeddings_6.parquet")
    assert parquet["id"].to_pylist() == rows.ids.tolist()
    assert np.array_equal(np.stack(parquet["vector"].to_numpy()), rows.vectors)
    with np.load(export(store, tmp_path / "n", "numpy") / "embeddings_6.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["vector"], rows.vectors)
        assert arrays["concept"].tolist() == rows.concepts.tolist()
    tensors = safetensors.numpy.load_file(export(store, tmp_path / "s", "safetensors") / "embeddings_6.safetensors")
    assert np.array_equal(tensors["vector"], rows.vectors)
    first = tensors["concept"][: tensors["concept.ends"][0]].tobytes().decode()
    assert first == rows.concepts[0]


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_store_is_exported_too(tmp_path: Path, form: str) -> None:
    store = Store(tmp_path / "store", create=True)
    assert contents(import_export(export(store, tmp_path / "out", form), tmp_path / "again")) == contents(store)
    only_failed: dict[str, Any] = batch(0)
    store.append([only_failed["images"][-1]])
    assert contents(import_export(export(store, tmp_path / "two", form), tmp_path / "again")) == contents(store)


def test_what_is_no_export_or_no_place_for_one(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no form 'csv' of an export; expected one of parquet, numpy, safetensors"):
        export(store, tmp_path / "out", "csv")
    with pytest.raises(InputError, match="is a folder that is not empty; give a new or an empty folder"):
        export(store, store.path)
    with pytest.raises(
        InputError, match="is a 'conceptlens store' of version 2; give the folder of a conceptlens store"
    ):
        import_export(store.path, tmp_path / "again")
    folder = export(store, tmp_path / "out")
    with pytest.raises(InputError, match=r"other things in it|is a 'conceptlens store export'"):
        import_export(folder, folder)
    about = json.loads((folder / "format.json").read_text())
    for changed, said in (({"version": 99}, "update conceptlens"), ({"form": "csv"}, "no form 'csv'")):
        (folder / "format.json").write_text(json.dumps({**about, **changed}))
        with pytest.raises(InputError, match=said):
            import_export(folder, tmp_path / "again")
    (folder / "format.json").unlink()
    with pytest.raises(InputError, match="no conceptlens store export"):
        import_export(folder, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("form", FORMS)
def test_damaged_exports_are_refused(store: Store, tmp_path: Path, form: str) -> None:
    folder = export(store, tmp_path / "out", form)
    file = folder / f"embeddings_6{ENDINGS[form]}"
    whole = file.read_bytes()
    other = (folder / f"embeddings_4{ENDINGS[form]}").read_bytes()
    for number, content in enumerate((whole[: len(whole) // 2], b"", b"x" * 99, other)):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"damaged or no export .*export the store again"):
            import_export(folder, tmp_path / f"again {number}")
    file.unlink()
    with pytest.raises(InputError, match="damaged or no export"):
        import_export(folder, tmp_path / "again")
    assert Store(tmp_path / "again").images() == ()  # images are the last
