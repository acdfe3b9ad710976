"""Labelled sets seen otherwise: cut to boxes, mirrored, some photos; annotations follow what is shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drawn_birds import Held
from PIL import Image

import conceptlens as cl
from conceptlens.data.labelled_set import Annotation, PhotoAttributes, PhotoKeypoints
from conceptlens.data.photo_views import box_crops, mirrored, some_photos

WIDTH, HEIGHT = 20, 10
BOXES = np.array([(0.25, 0.2, 0.75, 0.8), (0.5, 0.0, 1.0, 0.5), (0.11, 0.13, 0.12, 0.14)])
POINT = np.array([(0.5, 0.5), (0.6, 0.9), (0.1, 0.1)])


def photos(boxes: np.ndarray | None = BOXES) -> Held:
    """Three photos whose red says the column and whose green says the row; a point is blue."""
    made = []
    for x, y in POINT:
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        pixels[..., 0], pixels[..., 1] = np.arange(WIDTH) * 10, np.arange(HEIGHT)[:, None] * 10
        pixels[int(y * HEIGHT), int(x * WIDTH), 2] = 255
        made.append(Image.fromarray(pixels))
    points = PhotoKeypoints(("eye",), POINT[:, None], np.ones((3, 1), bool))
    seen = PhotoAttributes(("red",), np.array([[True], [False], [True]]), np.ones((3, 1), bool))
    return Held(made, [0, 1, 0], ("a", "b"), Annotation(photos=seen, keypoints=points, boxes=boxes))


def known(view: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    annotation = view.annotation
    return annotation.boxes, annotation.keypoints.xy[:, 0], annotation.keypoints.visible[:, 0]


def test_crops_show_the_box_and_its_margin() -> None:
    view = box_crops(photos(), margin=0)
    shown = [np.asarray(view[index]) for index in range(3)]
    assert [one.shape[:2] for one in shown] == [(6, 10), (5, 10), (1, 1)]
    assert [tuple(one[0, 0, :2]) for one in shown] == [(50, 20), (100, 0), (20, 10)]
    wide = box_crops(photos(), margin=0.5)
    assert [wide[index].size for index in range(2)] == [(20, 10), (15, 8)]  # cut at the photo's edges
    assert tuple(np.asarray(wide[1])[0, 0, :2]) == (50, 0)


def test_annotations_follow_the_crop() -> None:
    view = box_crops(photos(), margin=0)
    boxes, xy, visible = known(view)
    np.testing.assert_allclose(boxes, np.tile([0, 0, 1, 1], (3, 1)))
    np.testing.assert_allclose(xy[0], (0.5, 0.5))
    assert visible.tolist() == [True, False, False]
    assert np.isnan(xy[1:]).all()
    pixels = np.asarray(view[0])[..., 2]
    assert tuple(np.argwhere(pixels == 255)[0] / pixels.shape) == (0.5, 0.5)
    boxes, xy, visible = known(box_crops(photos(), margin=0.5))
    np.testing.assert_allclose(boxes[0], BOXES[0])  # its crop is the whole photo
    np.testing.assert_allclose(boxes[1], ((0.5 - 0.25) / 0.75, 0, 1, 0.5 / 0.75))


def test_a_mirror_exchanges_left_and_right() -> None:
    view = mirrored(photos())
    boxes, xy, visible = known(view)
    assert np.array_equal(np.asarray(view[1]), np.asarray(photos()[1])[:, ::-1])
    np.testing.assert_allclose(boxes, [(0.25, 0.2, 0.75, 0.8), (0.0, 0.0, 0.5, 0.5), (0.88, 0.13, 0.89, 0.14)])
    np.testing.assert_allclose(xy, [(0.5, 0.5), (0.4, 0.9), (0.9, 0.1)])
    assert visible.all()
    twice = mirrored(view)
    assert np.array_equal(np.asarray(twice[1]), np.asarray(photos()[1]))
    np.testing.assert_allclose(known(twice)[0], BOXES)


def test_some_photos_are_a_set_of_their_own() -> None:
    whole = photos()
    view = some_photos(whole, [2, 1], "chosen")
    assert (view.name, view.split, view.splits, view.classes) == ("held train, chosen", "train", ("train",), ("a", "b"))
    assert (len(view), view.names, view.labels.tolist()) == (2, ["002.png", "001.png"], [0, 1])
    assert np.array_equal(np.asarray(view[0]), np.asarray(whole[2]))
    boxes, xy, _ = known(view)
    np.testing.assert_allclose(boxes, BOXES[[2, 1]])
    np.testing.assert_allclose(xy, POINT[[2, 1]])
    assert view.annotation is not None
    assert view.annotation.photos is not None
    assert view.annotation.photos.present[:, 0].tolist() == [True, False]


def test_views_of_views_and_of_sets_that_know_nothing() -> None:
    view = mirrored(box_crops(some_photos(photos(), [1], "one"), margin=0))
    assert view.name == "held train, one, boxes and 0, mirrored"
    assert np.array_equal(np.asarray(view[0]), np.asarray(photos()[1])[:5, 10:][:, ::-1])
    plain = Held([Image.new("RGB", (4, 4))], [0], ("a",))
    assert mirrored(plain).annotation is None
    assert some_photos(plain, [0], "all").annotation is None
    assert dict(mirrored(plain).excluded) == dict(plain.excluded)


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf"), "wide"])
def test_a_margin_out_of_range_is_refused(margin: Any) -> None:
    with pytest.raises(cl.InputError, match="expected a share of the box's sides that is added to it, from 0"):
        box_crops(photos(), margin)


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(cl.InputError, match="held train annotates no boxes, so its photos cannot be cut to them"):
        box_crops(photos(boxes=None))
    for rows in ([], [3], [-1]):
        with pytest.raises(cl.InputError, match="expected at least one, each from 0 to 2"):
            some_photos(photos(), rows, "some")
