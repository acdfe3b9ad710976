"""The check of output paths and the progress bar, which all commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

import conceptlens as cl
from conceptlens.io.output_path import check_file, check_folder, check_new_folder
from conceptlens.io.progress import progress, progress_bar, speed_text


@pytest.mark.parametrize(
    ("out", "suffixes", "message"),
    [
        ("photo.txt", (".html", ".json"), "ends in '.txt'; expected .html or .json"),
        ("report", (".html", ".json"), "has no suffix; expected .html or .json"),
        ("folder", (".html", ".json"), "is a folder; give a file name in it, such as .*result.html"),
        ("folder.json", (".json",), "is a folder; give a file name in it, such as"),
        ("file/report.html", (".html",), "where there is a file"),
        ("report.html", (), "ends in '.html'; expected a folder"),
        ("file", (), "is a file; expected a folder"),
        ("file/new/more", (), "where there is a file"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused(
    tmp_path: Path, out: str, suffixes: tuple[str, ...], message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "folder").mkdir()
    with pytest.raises(cl.InputError, match=message):
        check_file(tmp_path / out, *suffixes) if suffixes else check_folder(tmp_path / out)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(cl.InputError, match=r"cannot be written in .* \(permission denied\)"):
        check_file(tmp_path / "new" / "report.html", ".html")
    with pytest.raises(cl.InputError, match="cannot be written in"):
        check_folder(tmp_path)


def test_an_empty_path_is_no_file() -> None:
    with pytest.raises(cl.InputError, match=r"--out is empty or the current folder; .* such as result\.html"):
        check_file("", ".html")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_folder_in_which_not_even_root_can_write_is_refused() -> None:
    with pytest.raises(cl.InputError, match="cannot be written in /proc"):
        check_file("/proc/x.html", ".html")
    with pytest.raises(cl.InputError, match="cannot be written in /proc"):
        check_folder("/proc/zz")


def test_a_path_that_can_be_written_passes_and_nothing_is_made(tmp_path: Path) -> None:
    check_file(None, ".html")
    check_folder(None)
    check_file(tmp_path / "new" / "report.HTML", ".html")
    check_folder(tmp_path / "new" / "folder")
    check_folder(tmp_path / "version.2")
    check_folder(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_new_folder_is_missing_or_empty(tmp_path: Path) -> None:
    check_new_folder(tmp_path)
    check_new_folder(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(cl.InputError, match=r"the copy .* is a folder that is not empty; give a new or"):
        check_new_folder(tmp_path, "the copy")
    with pytest.raises(cl.InputError, match=r"is a file; expected a folder"):
        check_new_folder(tmp_path / "file")


def test_a_log_has_a_line_every_half_minute_and_no_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter(range(0, 10_000, 20))
    monkeypatch.setattr("conceptlens.io.progress.time.perf_counter", lambda: next(now))
    assert list(progress(iter("abcd"), 7, "reading photos", each=2)) == list("abcd")
    assert capsys.readouterr().err.splitlines() == [
        "reading photos: 4 of 7, 6.0 a minute, 30 s left",
        "reading photos: 7 of 7, 5.2 a minute, 0 s left",
    ]
    with progress_bar("steps") as update:
        for steps in (500, 503, 506, 509):
            update(steps, None, "epoch 2")
    assert capsys.readouterr().err.splitlines() == ["epoch 2: 506, 9.0 a minute"]


def test_nothing_is_told_of_what_is_quick_or_not_to_be_told(capsys: pytest.CaptureFixture[str]) -> None:
    items = [1, 2, 3]
    assert list(progress(items, len(items), "photos")) == items
    assert progress(items, 3, "photos", each=3) is items
    assert progress(items, 3, "photos", visible=False) is items
    with progress_bar("photos", 3, visible=False) as update:
        update(1, None, None)
    assert capsys.readouterr().err == ""


def test_a_bar_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(progress([1, 2, 3], 3, "photos")) == [1, 2, 3]
    assert "photos" in capsys.readouterr().err
    with progress_bar("steps", 3) as update:
        update(2, None, "epoch 1")
    assert "epoch 1" in capsys.readouterr().err
    assert list(progress([1, 2], 2, "photos", visible=False)) == [1, 2]
    assert capsys.readouterr().err == ""


def test_a_speed_is_written_in_the_unit_that_fits_and_not_before_the_first_step() -> None:
    assert speed_text(0, 5.0) == ""
    assert speed_text(32, 10.0) == ", 3.2 a second"
    assert speed_text(1, 12.0) == ", 5.0 a minute"
