"""The check of output paths and the progress bar, which all commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

import conceptlens as cl
from conceptlens.io.output_path import check_output
from conceptlens.io.progress import progress, progress_bar


@pytest.mark.parametrize(
    ("out", "suffixes", "folder", "message"),
    [
        ("photo.txt", (".html", ".json"), True, "ends in '.txt'; expected .html, .json or a folder"),
        ("report", (".html", ".json"), False, "has no suffix; expected .html or .json"),
        ("report.html", (), True, "ends in '.html'; expected a folder"),
        ("file", (), True, "is a file, not a folder"),
        ("file", (".json",), True, "is a file, not a folder"),
        ("folder.json", (".json",), False, "is a folder; give a file name in it, such as"),
        ("file/report.html", (".html",), False, "where there is a file"),
        ("file/new/more", (), True, "where there is a file"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused(
    tmp_path: Path, out: str, suffixes: tuple[str, ...], folder: bool, message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(cl.InputError, match=message):
        check_output(tmp_path / out, *suffixes, folder=folder)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(cl.InputError, match="cannot be written in"):
        check_output(tmp_path / "new" / "report.html", ".html")


def test_a_path_that_can_be_written_passes_and_nothing_is_made(tmp_path: Path) -> None:
    check_output(None, ".html")
    check_output(tmp_path / "new" / "report.HTML", ".html")
    check_output(tmp_path / "new" / "folder", ".html", folder=True)
    check_output(tmp_path / "version.2", folder=True)
    check_output(tmp_path, ".html", folder=True)
    assert not list(tmp_path.iterdir())


def test_no_bar_is_drawn_where_standard_error_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    items = [1, 2, 3]
    assert progress(items, len(items), "photos") is items
    with progress_bar("photos", 3) as update:
        assert update is None
    assert capsys.readouterr().err == ""


def test_a_bar_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(progress([1, 2, 3], 3, "photos")) == [1, 2, 3]
    assert "photos" in capsys.readouterr().err
    with progress_bar("steps", 3) as update:
        assert update is not None
        update(2, None, "epoch 1")
    assert "epoch 1" in capsys.readouterr().err
    assert list(progress([1, 2], 2, "photos", visible=False)) == [1, 2]
    assert capsys.readouterr().err == ""
