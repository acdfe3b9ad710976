"""Linked folders and links that lead nowhere, where a folder of photos is read: each real one once, no gap untold."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from written_classes import as_listed, class_folders
from written_sets import left_half, palette, photo, refusal, write_text

from conceptlens.data.class_folder import ClassFolder
from conceptlens.data.imagenet_s import ImageNetS
from conceptlens.data.labelled_sets import open_classes
from conceptlens.data.mask_folder import MaskFolder
from conceptlens.io.errors import InputError
from conceptlens.io.folder_files import files_below
from conceptlens.io.images import find_images, read_image


def names(folder: Path, *sources: str | Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_images(*sources)]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """An album with two photos of its own, and links to a store beside it, to a folder within, upwards, to nowhere."""
    for name in ("store/summer/s.jpg", "store/winter.jpg", "album/own.jpg", "album/trips/rome.jpg"):
        photo(tmp_path / name)
    album = tmp_path / "album"
    (album / "more").symlink_to(tmp_path / "store")
    (album / "again").symlink_to(album / "trips")
    (album / "trips" / "up").symlink_to(tmp_path)
    (tmp_path / "store" / "summer" / "round").symlink_to(tmp_path / "store")
    (album / "gone.jpg").symlink_to(tmp_path / "taken away.jpg")
    return album


EVERY = ["gone.jpg", "more/summer/s.jpg", "more/winter.jpg", "own.jpg", "trips/rome.jpg"]


def test_linked_folders_are_entered_once_and_loops_are_cut(album: Path) -> None:
    assert names(album, album) == EVERY
    assert set(files_below(album).not_entered) == {"again", "trips/up", "more/summer/round"}


def test_a_folder_whose_photos_are_all_linked(album: Path) -> None:
    (album / "only").mkdir()
    (album / "only" / "trips").symlink_to(album / "trips")
    assert names(album / "only", album / "only") == ["trips/rome.jpg"]


def test_two_links_to_one_folder_give_its_photos_once(tmp_path: Path) -> None:
    photo(tmp_path / "real" / "a.jpg")
    for link in ("x", "y"):
        (tmp_path / "set" / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / "deep" / link).symlink_to(tmp_path / "real")
    assert names(tmp_path / "set", tmp_path / "set") == ["deep/x/a.jpg"]


def test_links_that_hold_each_other_end(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        photo(tmp_path / one / f"{one}.jpg")
        (tmp_path / one / "other").symlink_to(tmp_path / other)
    assert names(tmp_path, tmp_path / "a") == ["a/a.jpg", "a/other/b.jpg"]
    itself = tmp_path / "itself"
    itself.symlink_to(itself)
    assert "itself" in names(tmp_path, tmp_path)


@pytest.mark.parametrize("pattern", ["**/*.jpg", "*/**/*", "**"])
def test_patterns_enter_linked_folders_alike(album: Path, pattern: str) -> None:
    expected = [name for name in EVERY if pattern != "*/**/*" or "/" in name]
    assert names(album, f"{album}/{pattern}") == expected


def test_a_pattern_of_one_level_names_a_folder_once(album: Path) -> None:
    assert names(album, f"{album}/*/*.jpg") == ["more/winter.jpg", "trips/rome.jpg"]


def test_a_link_to_nowhere_says_so_when_it_is_read(album: Path) -> None:
    with pytest.raises(InputError, match=r"it is a link to '.*taken away.jpg', which is not there"):
        read_image(album / "gone.jpg")
    (album / "lost folder").symlink_to(album / "nowhere")
    (album / "notes.txt").symlink_to(album / "nowhere.txt")
    assert sorted({*names(album, album)} - {*EVERY}) == ["lost folder"]


# Folders of classes


def test_linked_photos_of_a_class(tmp_path: Path) -> None:
    class_folders(tmp_path, {"set/cat": 1, "set/dog": 1, "store/cats": 2, "store/foxes": 1})
    (tmp_path / "set/cat/more").symlink_to(tmp_path / "store/cats")
    (tmp_path / "set/fox").symlink_to(tmp_path / "store/foxes")
    (tmp_path / "set/cat/back").symlink_to(tmp_path / "set")
    (tmp_path / "set/dog/cats").symlink_to(tmp_path / "set/cat")
    (tmp_path / "set/wolf").symlink_to(tmp_path / "store/wolves")
    whole = open_classes(f"folder:{tmp_path / 'set'}")
    assert as_listed(whole) == [
        ("cat/0.jpg", "cat"),
        ("cat/more/0.jpg", "cat"),
        ("cat/more/1.jpg", "cat"),
        ("dog/0.jpg", "dog"),
        ("fox/0.jpg", "fox"),
    ]
    assert list(whole.excluded) == ["cat/back", "dog/cats", "wolf"]
    assert "'cat'" in whole.excluded["dog/cats"]
    assert "wolves', which is not there" in whole.excluded["wolf"]


def test_a_linked_photo_that_is_gone_is_a_failure_and_the_rest_is_read(tmp_path: Path) -> None:
    class_folders(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "dog" / "b.png").symlink_to("nowhere.png")
    whole = ClassFolder(tmp_path)
    assert whole.names == ["cat/0.jpg", "dog/0.jpg", "dog/b.png"]
    assert "link to 'nowhere.png'" in refusal(lambda: [whole[2]])


def test_a_split_that_is_a_link_to_another_is_counted_once_in_all(tmp_path: Path) -> None:
    class_folders(tmp_path, {"train/cat": 1, "train/dog": 2})
    (tmp_path / "val").symlink_to(tmp_path / "train")
    assert len(ClassFolder(tmp_path, "val")) == 3
    whole = ClassFolder(tmp_path, "all")
    assert whole.names == ["train/cat/0.jpg", "train/dog/0.jpg", "train/dog/1.jpg"]
    assert whole.excluded["val/dog"] == "a link to 'train/dog', whose photos are listed there"


# Folders of masks


def test_masks_and_photos_in_linked_folders(tmp_path: Path) -> None:
    photo(tmp_path / "far" / "images" / "a.jpg")
    palette(tmp_path / "far" / "masks" / "a.png", left_half())
    for kind in ("images", "masks"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        (tmp_path / "set" / kind / "linked").symlink_to(tmp_path / "far" / kind)
    write_text(tmp_path / "set" / "labels.txt", "cat")
    palette(tmp_path / "set" / "masks" / "lonely.png", left_half())
    made = MaskFolder(tmp_path / "set")
    assert [one.name for one in made] == ["linked/a"]
    assert made.excluded == {"masks/lonely.png": "a mask without a photo"}


def test_linked_classes_of_imagenet_s(tmp_path: Path) -> None:
    masks = tmp_path / "validation-segmentation"
    for wnid in ("n01440764", "n01443537"):
        photo(tmp_path / "validation" / wnid / "a.jpg")
        (masks / wnid).mkdir(parents=True)
        Image.new("RGB", (20, 12), (1, 0, 0)).save(masks / wnid / "a.png")
    (masks / "n01484850").symlink_to(masks / "n01440764")
    (masks / "n01491361").symlink_to(masks / "n09999999")
    write_text(tmp_path / "ImageNetS_categories_im50.txt", "n01440764", "n01443537", "n01484850", "n01491361")
    made = ImageNetS(tmp_path)
    assert made.names == ["n01440764/a", "n01443537/a"]
    assert list(made.excluded) == ["n01491361", "n01484850"]
