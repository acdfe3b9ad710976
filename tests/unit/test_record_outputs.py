"""What a record gives to look at and to go on with: arrays, overlays, figures, tables; and maps made elsewhere."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

import conceptlens as cl
from conceptlens import render
from conceptlens.record import ImageInfo, Source
from tolerance import assert_agree

WIDTH, HEIGHT = 80, 40
SEEN = (0.25, 0.0, 0.75, 1.0)  # the middle square of a photo twice as wide as high


def photo(seed: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values)


def record(images: Any = None, **changes: Any) -> cl.Explanation:
    maps = torch.arange(16.0).reshape(1, 2, 2, 4).repeat(len(images or [None]), 1, 1, 1)
    return cl.Explanation.from_maps(maps, ["cat", "<b>dog</b>"], images, **changes)


def cropped(name: str = "gone.png", size: tuple[int, int] = (WIDTH, HEIGHT)) -> cl.Explanation:
    return record([ImageInfo(name, "", *size, SEEN)])


class TestNumpy:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
    def test_maps_in_their_own_precision(self, dtype: torch.dtype) -> None:
        found = cl.Explanation.from_maps(torch.rand(2, 3, 4, 5).to(dtype), ["a", "b", "c"])
        assert isinstance(found.numpy(), np.ndarray)
        assert found.numpy().dtype == torch.zeros(0, dtype=dtype).numpy().dtype
        assert np.array_equal(found.numpy(), found.maps.numpy())

    def test_bfloat16_is_widened(self) -> None:
        assert cl.Explanation.from_maps(torch.rand(1, 4, 5).bfloat16(), "a").numpy().dtype == np.float32


class TestUpsampled:
    def test_the_photo_size_where_all_of_it_was_seen(self) -> None:
        found = record([ImageInfo("a", "", WIDTH, HEIGHT)])
        large = found.upsampled()
        assert large.shape == (1, 2, HEIGHT, WIDTH)
        assert_agree(large, render.upsample(found.maps, HEIGHT, WIDTH))

    @pytest.mark.parametrize("size", [None, (HEIGHT, WIDTH), (20, 60), 33])
    def test_the_box_tells_where_the_map_lies(self, size: Any) -> None:
        large = cropped().upsampled(size, fill=-1.0)
        rows, columns = {None: (HEIGHT, WIDTH), 33: (33, 33)}.get(size, size)
        assert large.shape == (1, 2, rows, columns)
        left, right = round(columns / 4), round(columns * 3 / 4)
        assert bool((large[..., :left] == -1).all())
        assert bool((large[..., right:] == -1).all())
        inside = render.upsample(cropped().maps, rows, right - left)
        assert_agree(large[..., left:right], inside)
        assert bool((cropped().upsampled(size)[..., :left] == 0).all())

    def test_the_peak_stays_where_the_crop_saw_it(self) -> None:
        maps = torch.zeros(1, 1, 4, 4)
        maps[0, 0, 1, 2] = 1  # at 5/8 of the crop's width: 0.25 + 0.5 * 5/8 of the photo's
        large = cl.Explanation.from_maps(maps, "spot", [ImageInfo("a", "", 400, 200, SEEN)]).upsampled()
        row, column = divmod(int(large[0, 0].argmax()), 400)
        assert (column + 0.5) / 400 == pytest.approx(0.25 + 0.5 * 5 / 8, abs=0.01)
        assert (row + 0.5) / 200 == pytest.approx(3 / 8, abs=0.01)

    def test_padding_beyond_the_photo_is_cut(self) -> None:
        info = ImageInfo("a", "", 20, 40, (-0.5, 0.0, 1.5, 1.0))
        found = cl.Explanation.from_maps(torch.rand(1, 6, 6), "a", [info])
        assert_agree(found.upsampled()[0, 0], render.upsample(found.maps[0, 0], 40, 40)[:, 10:30])
        assert found.overlay(photo(size=(20, 40))).size == (20, 40)

    def test_an_observation_of_photos_and_of_tensors(self) -> None:
        model = cl.load_model()
        by_photo = cl.cam(model.observe(photo(size=(300, 240))))
        assert by_photo.upsampled().shape == (1, 1, 240, 300)
        assert float(by_photo.upsampled()[..., :20].abs().max()) == 0  # the centre crop does not see the border
        by_tensor = cl.cam(model.observe(torch.rand(2, 3, 224, 192)))
        assert by_tensor.upsampled().shape == (2, 1, 224, 192)

    @pytest.mark.parametrize("size", ["a", 2.5, (5,), (1, 2, 3), True, (True, 4), [4, None]])
    def test_what_is_no_size_is_refused(self, size: Any) -> None:
        with pytest.raises(TypeError, match=r"size is .*; expected an integer, or \(rows, columns\)") as refused:
            cropped().upsampled(size)
        assert isinstance(refused.value, cl.InputError)

    @pytest.mark.parametrize("size", [(4, 6), [4, 6], np.array([4, 6]), torch.tensor([4, 6]), torch.Size((4, 6))])
    def test_sizes_of_numpy_and_torch(self, size: Any) -> None:
        assert cropped().upsampled(size, fill=np.float32(2)).shape == (1, 2, 4, 6)
        assert cropped().upsampled(size[0]).shape == (1, 2, 4, 4)

    @pytest.mark.parametrize("fill", [None, "0", True])
    def test_what_is_no_fill_is_refused(self, fill: Any) -> None:
        with pytest.raises(TypeError, match=r"fill is .*; expected a number"):
            cropped().upsampled(5, fill=fill)

    def test_photos_of_different_sizes_need_a_size(self) -> None:
        found = record([ImageInfo("a", "", 80, 40), ImageInfo("b", "", 40, 80)])
        assert found.upsampled(16).shape == (2, 2, 16, 16)
        with pytest.raises(cl.InputError, match=r"the 2 photos differ in size; give size=, or take one image with .of"):
            found.upsampled()
        with pytest.raises(cl.InputError, match=r"the size of 'nowhere.png' is not known; give size=\(rows, columns\)"):
            record(["nowhere.png"]).upsampled()
        with pytest.raises(cl.InputError, match="size is 0 x 4; expected at least one pixel"):
            found.upsampled((0, 4))


class TestOverlay:
    def test_a_photo_in_memory_while_it_is_held(self) -> None:
        own = photo()
        found = record([own])
        scale = render.scale_of([found.maps[0, 1]], False)
        expected = render.overlay(own, found.maps[0, 1], scale)
        assert np.array_equal(found.overlay(question=1), expected)
        assert np.array_equal(found.overlay(question="<b>dog</b>"), expected)
        del own
        gc.collect()
        with pytest.raises(cl.InputError, match=r"the photo of 'photo\[0\]' is neither in memory as a PIL image nor"):
            found.overlay()

    def test_a_photo_in_its_file(self, tmp_path: Path) -> None:
        file = tmp_path / "a.png"
        photo().save(file)
        found = record([file])
        assert found.source.image_info[0].fingerprint
        assert np.array_equal(found.overlay(), found.overlay(photo()))
        photo(1).save(file)  # another photo of that name is not the one that was observed
        with pytest.raises(
            cl.InputError, match="is neither in memory as a PIL image nor in a file of that name; give it"
        ):
            found.overlay()

    def test_the_photo_that_was_observed(self) -> None:
        own = photo(size=(300, 240))
        observation = cl.load_model().observe(own)
        found = cl.cam(observation)
        assert found.overlay().size == (300, 240)
        assert np.array_equal(found.overlay(), found.overlay(own))
        expected = found.overlay(own)
        del observation  # and with it its upright copy
        gc.collect()
        assert np.array_equal(found.overlay(), expected)
        assert found.source.photo() is not None
        assert np.array_equal(cl.combine([found]).overlay(opacity=0), own)
        own.paste((0, 0, 0), (0, 0, 99, 99))  # it is no longer the photo that was observed
        with pytest.raises(cl.InputError, match="is neither in memory"):
            found.overlay()

    @pytest.mark.parametrize("kind", ["pil", "array", "path", "text"])
    def test_a_photo_given(self, kind: str, tmp_path: Path) -> None:
        file = tmp_path / "a.png"
        photo().save(file)
        image: Any = {"pil": photo(), "array": np.asarray(photo()), "path": file, "text": str(file)}[kind]
        painted = np.asarray(cropped().overlay(image, opacity=1.0)).astype(int)
        assert painted.shape == (HEIGHT, WIDTH, 3)
        assert (painted[:, :19] <= np.asarray(photo())[:, :19]).all()  # not seen: dimmed
        assert np.asarray(cropped().overlay(image, opacity=0)).tolist() == np.asarray(photo()).tolist()

    def test_a_given_scale_is_taken(self) -> None:
        wide = cropped().overlay(photo(), scale=render.Scale(0.0, 100.0, False))
        assert not np.array_equal(wide, cropped().overlay(photo()))

    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (lambda: record([photo(), photo(1)]).overlay(), r"holds 2 images; choose one, such as explanation.of\(0\)"),
            (lambda: cropped().overlay(photo(), question=2), "no question 2 in this explanation"),
            (
                lambda: cropped().overlay(photo(), question="bird"),
                "no question 'bird' in this explanation; it has: cat",
            ),
            (lambda: cropped().overlay(3.5), "a photo is given as float; expected a PIL image, an array or a path"),
            (lambda: cropped().overlay(np.zeros((4, 4))), r"a photo of shape \(4, 4\) and type float64 was given"),
            (lambda: cropped().overlay("gone.png"), "no file 'gone.png'"),
            (lambda: cropped().overlay(photo(), opacity=60), "opacity is 60"),
            (lambda: cropped().overlay(photo(), opacity="x"), "opacity is 'x'; expected 0"),
            (lambda: cropped().overlay(photo(), scale="x"), "scale is 'x'; expected a Scale"),
            (lambda: record([photo()]).overlay(photo(1)), r"is not 'photo\[0\]', which the map explains: its pixels"),
            (lambda: record([photo(), photo(1)]).of(0).overlay(photo(1)), "give the photo that was observed"),
        ],
    )
    def test_refused(self, call: Any, words: str) -> None:
        with pytest.raises(cl.InputError, match=words):
            call()


@pytest.mark.parametrize("image", ["photo[0]", 1.5, None, True, np.array([0, 1]), torch.tensor([0, 1])])
def test_an_image_is_chosen_by_its_index(image: Any) -> None:
    with pytest.raises(TypeError, match=r"image is .*; expected the index of an image, 0 to 0"):
        cropped().of(image)
    with pytest.raises(cl.InputError, match=r"question is .*; expected a label or an index|no question"):
        cropped().overlay(photo(), question=image)
    assert len(record([photo(), photo(1)]).of(torch.tensor(-1)).maps) == 1


class TestPlot:
    def test_a_figure_with_a_row_for_each_image(self) -> None:
        photos = [photo(), photo(1), photo(2)]
        figure, axes = record(photos).plot()
        try:
            assert axes.shape == (3, 2)
            assert axes[0, 0].figure is figure
            assert axes[1, 1].get_title() == "<b>dog</b>\n15"
            assert axes[2, 0].images[0].get_array().shape == (HEIGHT, WIDTH, 3)
        finally:
            plt.close(figure)

    def test_axes_of_ones_own(self) -> None:
        figure, own = plt.subplots(1, 2)
        try:
            drawn, axes = cropped().plot(own)
            assert drawn is figure
            assert axes.tolist() == [own.tolist()]
            single = cl.Explanation.from_maps(torch.rand(1, 3, 3), "a").plot(own[0])[1]
            assert single.shape == (1, 1)
            with pytest.raises(cl.InputError, match="1 axes were given for 1 images and 2 questions; expected one for"):
                cropped().plot(own[0])
        finally:
            plt.close(figure)

    def test_a_map_without_its_photo_is_drawn_alone(self) -> None:
        figure, axes = cropped().plot()
        plt.close(figure)
        assert axes[0, 0].images[0].get_array().shape == (256, 512, 3)

    def test_nothing_to_plot_is_refused(self) -> None:
        with pytest.raises(cl.InputError, match="holds no map to plot"):
            cl.Explanation.from_maps(torch.zeros(0, 3, 3), []).plot()


def test_an_overlay_says_where_it_is_not_known_what_the_model_saw() -> None:
    own = photo()
    found = record([own])
    source = dataclasses.replace(found.source, image_info=(ImageInfo("a", "", WIDTH, HEIGHT, box_known=False),))
    found = dataclasses.replace(found, source=source)
    with pytest.warns(UserWarning, match="it is not known which part of 'a' the model saw"):
        assert found.overlay().size == (WIDTH, HEIGHT)
    figure, axes = found.plot()
    plt.close(figure)
    assert axes[0, 0].get_title() == "cat\n7\n(which part of the photo\nthe model saw is not known)"
    assert found._repr_html_().count("(which part of the photo\nthe model saw is not known)") == 2


class TestFrame:
    def test_a_row_for_each_image_and_question(self) -> None:
        table = record([photo(), photo(1)], scores=np.array([[1.0, 2.0], [3.0, 4.0]])).to_frame()
        assert list(table.columns) == ["image", "question", "kind", "layer", "score"]
        assert table["image"].tolist() == ["photo[0]", "photo[0]", "photo[1]", "photo[1]"]
        assert table["question"].tolist() == ["cat", "<b>dog</b>"] * 2
        assert table["score"].tolist() == [1, 2, 3, 4]
        assert set(table["kind"]) == {"custom"}

    def test_everything_that_the_method_defines(self) -> None:
        observation = cl.load_model().observe([photo(size=(300, 240)), photo(1, (300, 240))])
        found = cl.explain(observation, ["whiskers", "a cup"], target=["tabby", "espresso"])
        table = found.to_frame()
        assert len(table) == 4
        assert set(table["concept_type"]) == {t for row in found.concept_types for t in row}
        assert table["explained_class"].tolist() == [c for c in found.explained_classes for _ in range(2)]
        assert table["contribution"].tolist() == pytest.approx(found.contributions.double().flatten().tolist())
        measured = cl.Explanation(
            torch.ones(1, 1, 2, 2), None, torch.ones(1, 1), (("a",),), Source("m", "l", "loce", (ImageInfo("i"),)),
            diagnostics={"iou": torch.full((1, 1), 0.5)},
        )  # fmt: skip
        assert measured.to_frame()["iou"].tolist() == [0.5]

    def test_without_pandas_one_sentence_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(cl.InputError, match=r"to_frame needs pandas: pip install 'conceptlens\[pandas\]'"):
            cropped().to_frame()


class TestNotebook:
    def test_it_is_small_escaped_and_holds_no_script(self) -> None:
        photos = [photo(seed, (1200, 800)) for seed in range(5)]
        maps = np.random.default_rng(0).random((5, 9, 7, 7))
        labels = ["<script>alert(1)</script>", *(f"question {q}" for q in range(8))]
        found = cl.Explanation.from_maps(maps, labels, photos)
        text = found._repr_html_()
        assert len(text) < 200_000
        assert "<script" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
        assert text.count("<img ") == 12
        assert "33 more maps; see .plot()" in text
        assert not re.search(r"(?:src|href)=\"(?!data:image/jpeg;base64,)", text)

    def test_classes_have_short_names_and_the_full_ones_in_a_tooltip(self) -> None:
        kinds = ("class", "class", "concept")
        labels = (("maillot", "maillot, tank suit", "a long, thin tail"),)
        found = dataclasses.replace(
            cl.Explanation.from_maps(np.ones((1, 3, 4, 4)), labels[0]), labels=labels, target_kinds=kinds
        )
        text = found._repr_html_()
        assert '<br><span title="maillot, tank suit">tank suit</span><br>' in text
        assert "<br>maillot<br>" in text
        assert "<br>a long, thin tail<br>" in text
        assert "3 questions (maillot; tank suit; a long, thin tail)" in repr(found)
        _, axes = found.plot()
        assert [one.get_title().split("\n")[0] for one in axes[0]] == ["maillot", "tank suit", "a long, thin tail"]
        assert found.to_frame()["question"].tolist() == list(labels[0])

    def test_without_photos_the_maps_alone_are_shown(self) -> None:
        text = cropped("<i>gone</i>.png")._repr_html_()
        assert text.count("<img ") == 2
        assert "more map" not in text
        assert "<i>" not in text
        assert "<b>" not in text


class TestFromMaps:
    @pytest.mark.parametrize(
        ("labels", "images", "words"),
        [
            ([3, 4, 5], None, "labels hold 3 in a list of int; expected texts"),
            ([["a"], [2], ["c"]], None, "labels hold 2 in a list of list; expected texts"),
            ("a", 5, "images are given as int; expected a list of photos, paths, names"),
            ("a", {"a.png"}, "images are given as set"),
        ],
    )
    def test_labels_and_images_of_another_type(self, labels: Any, images: Any, words: str) -> None:
        with pytest.raises(TypeError, match=words) as refused:
            cl.Explanation.from_maps(np.ones((3, 2, 2)), labels, images)
        assert isinstance(refused.value, cl.InputError)

    @pytest.mark.parametrize("kind", ["numpy", "torch"])
    @pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "bool"])
    def test_numbers_of_any_type(self, kind: str, dtype: str) -> None:
        values = (np.random.default_rng(0).random((2, 3, 4)) * 3).astype(dtype)
        found = cl.Explanation.from_maps(values if kind == "numpy" else torch.from_numpy(values), "a")
        assert found.maps.shape == (2, 1, 3, 4)
        assert found.maps.is_floating_point()
        assert np.array_equal(found.numpy()[:, 0], values)
        assert (found.weights, found.signed, found.target_kinds) == (None, False, ("custom",))

    @pytest.mark.parametrize(
        ("shape", "labels", "expected"),
        [
            ((2, 3, 3), "a", (("a",), ("a",))),
            ((2, 3, 3), ["a", "b"], (("a",), ("b",))),
            ((2, 3, 3), [["a"], ["b"]], (("a",), ("b",))),
            ((1, 3, 3), ["a"], (("a",),)),
            ((2, 1, 3, 3), ["a"], (("a",), ("a",))),
            ((2, 2, 3, 3), ["a", "b"], (("a", "b"), ("a", "b"))),
            ((2, 2, 3, 3), [["a", "b"], ("c", "d")], (("a", "b"), ("c", "d"))),
        ],
    )
    def test_labels(self, shape: Any, labels: Any, expected: Any) -> None:
        assert cl.Explanation.from_maps(np.ones(shape), labels).labels == expected

    def test_signs_scores_and_names(self) -> None:
        maps = torch.tensor([[[1.0, -2.0]], [[3.0, 4.0]]])
        found = cl.Explanation.from_maps(maps, "a", method="mine", model="net")
        assert found.signed
        assert found.scores.tolist() == [[1], [4]]
        assert cl.Explanation.from_maps(maps, "a", scores=np.array([5, 6])).scores.tolist() == [[5], [6]]
        assert not cl.Explanation.from_maps(maps.abs(), "a").signed
        assert cl.Explanation.from_maps(maps.abs(), "a", signed=True).signed
        assert (found.source.method, found.source.model) == ("mine", "net")
        assert [info.name for info in found.source.image_info] == ["image[0]", "image[1]"]

    def test_what_the_maps_speak_of(self, tmp_path: Path) -> None:
        file = tmp_path / "a.png"
        photo().save(file)
        info = ImageInfo("mine", "", 5, 6, SEEN)
        images = [photo(), np.asarray(photo()), file, str(file), "only a name", info]
        found = cl.Explanation.from_maps(np.ones((6, 3, 3)), "a", images).source.image_info
        assert [one.name for one in found] == ["photo[0]", "photo[1]", str(file), str(file), "only a name", "mine"]
        assert len({one.fingerprint for one in found[:4]}) == 1
        assert [(one.width, one.height) for one in found] == [(WIDTH, HEIGHT)] * 4 + [(0, 0), (5, 6)]
        assert found[5] is info
        alone = cl.Explanation.from_maps(np.ones((1, 3, 3)), "a", np.asarray(photo()))
        assert alone.source.image_info[0].width == WIDTH

    def test_an_observation_says_which_part_was_seen(self) -> None:
        observation = cl.load_model().observe([photo(size=(300, 240))])
        found = cl.Explanation.from_maps(np.ones((1, 3, 3)), "a", observation)
        assert found.source.image_info == observation.image_info
        assert found.overlay().size == (300, 240)

    REFUSED: tuple[tuple[Any, Any, Any, dict[str, Any], type[Exception], str], ...] = (
        ([[1.0]], "a", None, {}, TypeError, "maps are given as list; expected a numpy array or a torch tensor"),
        (np.array([["x"]]), "a", None, {}, TypeError, "maps are of type <U1; expected real numbers"),
        (torch.zeros(1, 2, 2, dtype=torch.complex64), "a", None, {}, TypeError, "expected real numbers"),
        (np.ones((3, 3)), "a", None, {}, cl.InputError, r"maps have shape \(3, 3\); expected image height width, or"),
        (np.ones((1, 0, 3)), "a", None, {}, cl.InputError, r"maps have shape \(1, 0, 3\)"),
        (np.full((1, 2, 2), np.nan), "a", None, {}, cl.InputError, "maps hold 4 values that are NaN or infinite"),
        (-np.ones((1, 2, 2)), "a", None, {"signed": False}, cl.InputError, "maps hold values below zero; leave out"),
        (
            np.ones((3, 2, 2)),
            ["a", "b"],
            None,
            {},
            cl.InputError,
            "2 labels were given; expected 1 label or 3, one for",
        ),
        (
            np.ones((1, 3, 2, 2)),
            ["a"],
            None,
            {},
            cl.InputError,
            "1 labels were given; expected 3, one for each question",
        ),
        (np.ones((1, 2, 2)), 7, None, {}, TypeError, "labels are given as int; expected a text or a list of texts"),
        (np.ones((2, 1, 2, 2)), ["a", ["b"]], None, {}, TypeError, "labels hold 'a' in a list of list and str"),
        (
            np.ones((2, 2, 2)),
            "a",
            ["a.jpg"],
            {},
            cl.InputError,
            "1 images were given for 2 maps; expected one for each",
        ),
        (np.ones((1, 2, 2)), "a", [7], {}, TypeError, "a photo is given as int; expected a PIL image"),
        (np.ones((1, 2, 2)), "a", None, {"scores": np.ones(3)}, cl.InputError, r"scores have shape \(3,\); expected"),
    )

    @pytest.mark.parametrize(("maps", "labels", "images", "options", "kind", "words"), REFUSED)
    def test_refused(self, maps: Any, labels: Any, images: Any, options: Any, kind: Any, words: str) -> None:
        with pytest.raises(kind, match=words) as error:
            cl.Explanation.from_maps(maps, labels, images, **options)
        assert isinstance(error.value, cl.InputError)

    def test_metrics_take_it(self) -> None:
        maps = np.zeros((1, 4, 4))
        maps[0, 0, 0] = 1
        masks = torch.zeros(1, 16, 16, dtype=torch.bool)
        masks[0, :4, :4] = True
        found = cl.Explanation.from_maps(maps, "corner", [photo()])
        assert cl.metrics.pointing_game(found, masks).of(0, 0) == 1
        assert cl.metrics.peak(found.maps).tolist() == [[[0.125, 0.125]]]


def test_photos_are_not_saved_with_the_record() -> None:
    own = photo()
    found = record([own])
    for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):  # noqa: S301
        assert again.source == found.source
        assert torch.equal(again.maps, found.maps)
    assert pickle.loads(pickle.dumps(found)).source.photos == ()  # noqa: S301
