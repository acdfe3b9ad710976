"""What embedding makes of masks of every kind and of whatever is wrong with them: each a clear state, nothing lost."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from embed_process import LAYERS, small_model, small_plan
from PIL import Image
from test_coco import CROWD, PERSON, TREE, box, instances, packed, panoptic, stripes
from test_voc import indices as voc_indices
from test_voc import voc
from written_sets import palette, photo, write_text

import conceptlens as cl
from conceptlens.data.coco import CocoPanoptic
from conceptlens.data.mask_folder import MaskFolder
from conceptlens.data.masked_set import MaskedPhoto, MaskedSet, coarse_mask
from conceptlens.data.voc import Voc
from conceptlens.local_embeddings.runs.embed_run import EmbedProgress, embed_batches
from conceptlens.store import Store

pytestmark = pytest.mark.wide


def run(data: MaskedSet, folder: Path, **settings: Any) -> tuple[Store, EmbedProgress]:
    store = Store(folder, create=True)
    *_, last = embed_batches(data, settings.pop("model", None) or small_model(), small_plan(**settings), store)
    return store, last


class Given:
    """A set of photos that a test has made."""

    def __init__(self, *photos: MaskedPhoto, name: str = "given") -> None:
        self.photos, self.name = photos, name
        self.concepts = tuple(dict.fromkeys(concept for one in photos for concept in one.concepts))
        self.names = [one.name for one in photos]

    def __len__(self) -> int:
        return len(self.photos)

    def __iter__(self) -> Iterator[MaskedPhoto]:
        return iter(self.photos)

    def __getitem__(self, place: int) -> MaskedPhoto:
        return self.photos[place]


def drawn(count: int) -> list[MaskedPhoto]:
    return list(cl.open_set(f"drawn:{count}"))


# Masks of every kind

PIECE = np.zeros((12, 20), bool)
PIECE[2:9, 3:12] = True
PLAIN = {"size": [12, 20], "counts": [38, 7, 5, 7, 5, 7, 5, 7, 5, 7, 5, 7, 5, 7, 5, 7, 5, 7, 99]}
TWO = ({"segmentation": box(1, 1, 9, 8)}, {"segmentation": box(12, 2, 18, 10), "iscrowd": 1, "category_id": 18})
SOURCES: dict[str, Callable[[Path], MaskedSet]] = {
    "COCO polygons": lambda f: instances(f, {"segmentation": box(3, 2, 12, 9)}),
    "COCO run lengths, packed": lambda f: instances(f, {"segmentation": packed(PIECE)}),
    "COCO run lengths, plain": lambda f: instances(f, {"segmentation": PLAIN}),
    "COCO boxes": lambda f: instances(f, {"bbox": [3, 2, 9, 7]}, shape="box"),
    "COCO ellipses": lambda f: instances(f, {"bbox": [3, 2, 9, 7]}, shape="ellipse"),
    "COCO crowds ignored": lambda f: instances(f, *TWO, crowds="ignore"),
    "COCO crowds joined": lambda f: instances(f, *TWO, crowds="join"),
    "COCO crowds skipped": lambda f: instances(f, *TWO, crowds="skip"),
    "COCO objects": lambda f: instances(
        f, TWO[0], {"segmentation": box(1, 1, 9, 8)}, {"segmentation": box(12, 2, 18, 10)}, by="instance"
    ),
    "COCO panoptic": lambda f: CocoPanoptic(panoptic(f, stripes())),
    "COCO panoptic, turned": lambda f: CocoPanoptic(panoptic(f, stripes(), turn=6)),
    "COCO panoptic, crowds joined": lambda f: CocoPanoptic(panoptic(f, stripes()), crowds="join"),
    "VOC": lambda f: Voc(voc(f, voc_indices())),
    "index PNG": lambda f: index_folder(f),
    "index PNG, finer": lambda f: index_folder(f, 3),
}
LABELS = {
    "COCO crowds joined": ["dog", "person"], "COCO objects": ["person"] * 3, "VOC": ["aeroplane", "person"],
    "COCO panoptic": ["person", "tree"], "COCO panoptic, turned": ["person", "tree"],
    "COCO panoptic, crowds joined": ["person", "tree"], "index PNG": ["cat", "dog"], "index PNG, finer": ["cat", "dog"],
}  # fmt: skip


def index_folder(folder: Path, finer: int = 1) -> MaskFolder:
    codes = np.zeros((12, 20), np.int32)
    codes[2:9, 3:12], codes[4:11, 14:19], codes[0] = 1, 2, 255
    photo(folder / "images" / "one.jpg")
    palette(folder / "masks" / "one.png", codes.repeat(finer, 0).repeat(finer, 1))
    write_text(folder / "labels.txt", "cat", "dog")
    return MaskFolder(folder)


@pytest.mark.parametrize("source", SOURCES)
def test_masks_of_every_kind_are_embedded_as_they_are_drawn(source: str, tmp_path: Path) -> None:
    data = SOURCES[source](tmp_path / "set")
    one = data[0]
    store, last = run(data, tmp_path / "store")
    assert (last.photos, last.failures, last.embeddings) == (1, 0, 2 * len(one.masks))
    rows = store.embeddings("first")
    assert sorted(rows.concepts) == LABELS.get(source, ["person"])
    assert len(set(rows.ids)) == len(rows)
    kept = sorted(
        (rows.concepts[i], store.mask(rows.masks[i]).tobytes(), float(rows.areas[i])) for i in range(len(rows))
    )
    told = sorted(
        (concept.label, mask.tobytes(), float(np.float32(mask.mean())))
        for concept, mask in zip(one.concepts, one.masks, strict=True)
    )
    assert [row[:2] for row in kept] == [row[:2] for row in told]
    assert np.allclose([row[2] for row in kept], [row[2] for row in told])
    assert rows.vectors.any(1).all()
    if source in ("COCO polygons", "COCO run lengths, packed", "COCO run lengths, plain", "COCO boxes"):
        np.testing.assert_array_equal(store.mask(rows.masks[0]), PIECE)
    if source == "COCO panoptic, crowds joined":
        assert max(rows.areas) == pytest.approx(((stripes() != 0) & (stripes() != TREE)).mean())
        assert {PERSON, CROWD} <= set(stripes().flatten().tolist())


def test_boxes_and_ellipses_of_any_set_have_vectors_near_the_outlines(tmp_path: Path) -> None:
    outlines = drawn(3)
    stores = [run(Given(*outlines), tmp_path / "outline")[0]]
    for shape in ("box", "ellipse"):
        coarse = [replace(one, masks=np.stack([around(mask, shape) for mask in one.masks])) for one in outlines]
        stores.append(run(Given(*coarse), tmp_path / shape)[0])
    first, *others = [by_concept(store) for store in stores]
    for other in others:
        assert other.keys() == first.keys()
        cosines = [float(cosine(first[key], other[key])) for key in first]
        assert np.median(cosines) > 0.7
        assert min(cosines) < 0.9999, "another mask, another vector"


def around(mask: np.ndarray, shape: str) -> np.ndarray:
    """Return the box around a mask's pixels, or the ellipse in it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return coarse_mask(box, mask.shape, shape)  # pyright: ignore[reportArgumentType]


def by_concept(store: Store) -> dict[tuple[str, str], np.ndarray]:
    rows = store.embeddings("second")
    return {(rows.images[i], rows.concepts[i]): rows.vectors[i] for i in range(len(rows))}


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_small_masks_are_left_out_where_it_is_asked_for(tmp_path: Path) -> None:
    scenes = drawn(4)
    shares = sorted(mask.mean() for one in scenes for mask in one.masks)
    least = float(shares[len(shares) // 2])
    store, _ = run(Given(*scenes), tmp_path / "some", min_area=least)
    rows = store.embeddings("first")
    assert len(rows) == sum(share >= least for share in shares)
    assert rows.areas.min() >= least
    none, last = run(Given(*scenes), tmp_path / "none", min_area=0.99)
    assert (last.photos, last.failures, last.embeddings) == (4, 0, 0)
    assert len(none.images()) == 4, "a photo without a concept was looked at"


# What is wrong with photos and masks


def test_a_folder_with_everything_wrong_in_it(tmp_path: Path) -> None:
    """Truncated photos and masks, sizes that do not fit, an index nobody named: said of each, and the rest is there."""
    folder = tmp_path / "set"
    draw = np.random.default_rng(0)
    codes = np.zeros((48, 64), np.int32)
    codes[10:30, 12:40] = 1
    for name in (
        "a good",
        "b cut",
        "c cut mask",
        "d shape",
        "e index",
        "f blank",
        "g full",
        "h finer",
        "i text",
        "j good",
    ):
        place = folder / "images" / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (48, 64, 3), np.uint8)).save(place)
        palette(folder / "masks" / f"{name}.png", codes)
    codes[35:45, 50:60] = 2  # the one dog
    palette(folder / "masks" / "j good.png", codes)
    write_text(folder / "labels.txt", "cat", "dog")
    for cut in (folder / "images" / "b cut.png", folder / "masks" / "c cut mask.png"):
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    palette(folder / "masks" / "d shape.png", codes[:, :20])
    palette(folder / "masks" / "e index.png", codes + 7 * (codes == 2))
    palette(folder / "masks" / "f blank.png", 0 * codes)
    palette(folder / "masks" / "g full.png", 0 * codes + 1)
    palette(folder / "masks" / "h finer.png", codes.repeat(2, 0).repeat(2, 1) % 2)
    (folder / "images" / "i text.png").write_text("no photo")

    store, last = run(MaskFolder(folder), tmp_path / "store")
    assert (last.photos, last.total, last.failures) == (10, 10, 5)
    said = {Path(row.name).stem: str(row.failure) for row in store.failures()}
    assert sorted(said) == ["b cut", "c cut mask", "d shape", "e index", "i text"]
    for name, words in {"b cut": "cut short", "c cut mask": "c cut mask.png", "d shape": "20", "e index": "9"}.items():
        assert words in said[name], said[name]
    assert all("\n" not in reason for reason in said.values())

    rows = store.embeddings("first")
    names = {image.id: Path(image.name).stem for image in store.images()}
    there = sorted((names[rows.images[i]], rows.concepts[i]) for i in range(len(rows)))
    assert there == [("a good", "cat"), ("g full", "cat"), ("h finer", "cat"), ("j good", "cat"), ("j good", "dog")]
    for i in range(len(rows)):
        full = names[rows.images[i]] == "g full"
        assert bool(rows.vectors[i].any()) != full
        assert bool(rows.converged[i]) != full
        assert (rows.ious[i] == 0) == full
        assert not full or rows.areas[i] == 1
    assert np.isfinite(rows.vectors).all()
    assert sorted(store.concepts().items()) == [("cat", 4), ("dog", 1)]


def test_photos_that_a_layer_does_not_answer_have_vectors_of_zero(tmp_path: Path) -> None:
    """Cells that are all 0 are no failure: the row is there, says that nothing converged, and is near nothing."""
    scenes = drawn(3)
    model = small_model()

    def dark(_module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output * (inputs[0].std((1, 2, 3), keepdim=True) > 0.01)

    model.module.get_submodule("first").register_forward_hook(dark)
    grey = replace(scenes[1], photo=Image.new("RGB", scenes[1].photo.size, (90, 90, 90)))
    for mode in ("mean_difference", "exact", "paper"):
        store, last = run(Given(scenes[0], grey, scenes[2]), tmp_path / mode, mode=mode, model=model)
        assert last.failures == 0
        rows = store.embeddings("first")
        image = next(one.id for one in store.images() if one.name == grey.name)
        own = np.array(rows.images) == image
        assert own.sum() == len(grey.masks)
        assert not rows.vectors[own].any()
        assert not rows.converged[own].any()
        assert not rows.ious[own].any()
        assert rows.vectors[~own].any(1).all()


def test_two_equal_masks_of_one_concept_are_two_rows(tmp_path: Path) -> None:
    """Boxes of two objects may be the same box."""
    one = drawn(1)[0]
    twice = replace(one, concepts=one.concepts * 2, groups=one.groups * 2, masks=np.concatenate([one.masks, one.masks]))
    store, last = run(Given(twice), tmp_path / "store")
    assert last.embeddings == 2 * 2 * len(one.masks)
    once, _ = run(Given(one), tmp_path / "once")
    assert set(once.embeddings("first").masks) <= set(store.embeddings("first").masks)


def test_a_blank_mask_is_neither_a_row_nor_a_control(tmp_path: Path) -> None:
    first, second = drawn(2)
    blank = replace(second, masks=np.concatenate([second.masks[:1], second.masks[1:] & False]))
    store, last = run(Given(first, blank), tmp_path / "store")
    assert last.embeddings == 2 * (len(first.masks) + 1)
    own = store.embeddings("first", where=f"image != '{model_input(store, blank)}'")
    assert (own.control_ious > 0).all()


def model_input(store: Store, one: MaskedPhoto) -> str:
    return next(row.id for row in store.images() if row.name == one.name)


def test_no_photo_that_can_be_read_is_said_at_once(tmp_path: Path) -> None:
    one = drawn(1)[0]

    class Broken(Given):
        def __getitem__(self, place: int) -> MaskedPhoto:
            raise cl.InputError(f"{self.names[place]} is truncated")

    with pytest.raises(cl.InputError, match=r"none of the 1 photos .* scene 1000000 is truncated"):
        run(Broken(one), tmp_path / "store")
    assert not Store(tmp_path / "store").images()


def test_a_long_run_holds_a_few_photos(tmp_path: Path) -> None:
    one = drawn(1)[0].with_min_area(0.1)

    def most_held(count: int) -> int:
        photos: list[weakref.ref[Image.Image]] = []
        held: list[int] = []

        class Many(Given):
            def __len__(self) -> int:
                return count

            def __getitem__(self, place: int) -> MaskedPhoto:
                made = replace(one, name=self.names[place], photo=one.photo.copy())
                photos.append(weakref.ref(made.photo))
                held.append(sum(photo() is not None for photo in photos))
                return made

        data = Many(one)
        data.names = [f"photo {place:02}" for place in range(count)]
        _, last = run(data, tmp_path / str(count), batch_size=2)
        assert (last.photos, last.embeddings) == (count, count * len(LAYERS) * len(one.masks))
        assert len(photos) <= count + 4 + 3, (
            "a photo is read for the run, and some for the scale or as first after last"
        )
        return max(held)

    assert most_held(90) < most_held(30) + 6
