"""What `observe` takes: photos, arrays, tensors, batches of a loader, dictionaries and several inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import conceptlens as cl
from conceptlens.model.layer_cells import layer_cells
from tolerance import assert_agree

SIZE = (32, 48)


class Net(nn.Module):
    """Two convolutions and a head; a mask, where given, dims the cells."""

    def __init__(self, colours: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(colours, 6, 3, stride=4, padding=1), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(self.stem(images)).mean((2, 3)))


class Masked(Net):
    """Needs a mask of one value per image, which weighs its cells after the body."""

    def forward(self, images: Tensor, mask: Tensor, scale: float = 1.0) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.head((self.body(self.stem(images)) * mask[:, None, None, None] * scale).mean((2, 3)))


class Named(Net):
    """Takes its images under the name that transformers gives them."""

    def forward(self, pixel_values: Tensor, *, labels: Any = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if labels is not None:
            raise RuntimeError("labels are for training")
        return super().forward(pixel_values)


class TextsFirst(Net):
    """A model of texts and images, which takes the texts first, as CLIP and OWL-ViT do."""

    def forward(self, input_ids: Any = None, pixel_values: Any = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if input_ids is None:
            raise ValueError("You have to specify input_ids")
        return super().forward(pixel_values) * (1 + input_ids.float().mean())


def model(kind: type[nn.Module] = Net, transform: bool = True, **options: Any) -> cl.Backbone:
    torch.manual_seed(0)
    view = cl.Preprocess(SIZE, (0.5,) * 3, (0.25,) * 3, crop_mode="squash") if transform else None
    return cl.Backbone(kind().eval(), "net", transform=view, input_size=SIZE, **options)


def pixels(seed: int = 0, count: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 40, 60, 3), dtype=np.uint8)


def floats(count: int = 2) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(0))


PHOTOS: dict[str, Callable[[np.ndarray], Any]] = {
    "a list of photos": lambda p: [Image.fromarray(one) for one in p],
    "a tuple of arrays": lambda p: tuple(p),
    "an array, colours last": lambda p: p,
    "an array, colours first": lambda p: p.transpose(0, 3, 1, 2),
    "arrays, colours first": lambda p: list(p.transpose(0, 3, 1, 2)),
    "a tensor of bytes": lambda p: torch.from_numpy(p).permute(0, 3, 1, 2),
    "tensors of bytes": lambda p: list(torch.from_numpy(p).permute(0, 3, 1, 2)),
    "a batch with labels": lambda p: (torch.from_numpy(p).permute(0, 3, 1, 2), torch.tensor([1, 2])),
    "a batch as a list": lambda p: [torch.from_numpy(p).permute(0, 3, 1, 2), torch.tensor([1, 2]), ["a", "b"]],
    "a dictionary": lambda p: {"image": p, "label": [1, 2]},
}


@pytest.mark.parametrize("given", PHOTOS.values(), ids=PHOTOS)
def test_photos_in_every_form(given: Callable[[np.ndarray], Any]) -> None:
    expected = model().observe([Image.fromarray(one) for one in pixels()])
    found = model().observe(given(pixels()))
    assert_agree(found.images, expected.images)
    assert [info.fingerprint for info in found.image_info] == [info.fingerprint for info in expected.image_info]
    assert [(info.width, info.height) for info in found.image_info] == [(60, 40)] * 2


ONE: dict[str, Callable[[np.ndarray], Any]] = {
    "a photo": Image.fromarray,
    "an array": lambda p: p,
    "an array, colours first": lambda p: p.transpose(2, 0, 1),
    "a tensor of bytes": lambda p: torch.from_numpy(p).permute(2, 0, 1),
    "a sample": lambda p: (Image.fromarray(p), 3),
    "a sample of a tensor": lambda p: (torch.from_numpy(p).permute(2, 0, 1), torch.tensor(3)),
    "a sample of a numpy class": lambda p: [p, np.int64(3)],
}


@pytest.mark.parametrize("given", ONE.values(), ids=ONE)
def test_one_photo_in_every_form(given: Callable[[np.ndarray], Any]) -> None:
    (one,) = pixels(count=1)
    assert_agree(model().observe(given(one)).images, model().observe(Image.fromarray(one)).images)


READY: dict[str, Callable[[Tensor], Any]] = {
    "a tensor": lambda t: t,
    "a list of tensors": lambda t: list(t),
    "an array": lambda t: t.numpy(),
    "an array in double precision": lambda t: t.double().numpy(),
    "an array, colours last": lambda t: t.numpy().transpose(0, 2, 3, 1),
    "a batch with labels": lambda t: (t, torch.tensor([1, 2])),
    "a batch with masks": lambda t: (t, torch.zeros(2, 1, *SIZE)),
    "a dictionary": lambda t: {"pixel_values": t, "labels": torch.tensor([1, 2])},
    "half precision": lambda t: t.half().float(),
}


@pytest.mark.parametrize("given", READY.values(), ids=READY)
def test_prepared_values_in_every_form(given: Callable[[Tensor], Any]) -> None:
    found = model().observe(given(floats()))
    torch.testing.assert_close(found.images, floats()[: len(found.images)], atol=2e-3, rtol=0)
    assert found.photos == (None,) * len(found.images)


@pytest.mark.parametrize("given", [lambda t: t, lambda t: t.numpy(), lambda t: t.numpy().transpose(1, 2, 0)])
def test_one_prepared_image(given: Callable[[Tensor], Any]) -> None:
    found = model().observe(given(floats()[0]))
    assert torch.equal(found.images, floats()[:1])
    assert found.image_info[0].name == "tensor[0]"


REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": ([], "no photo was given"),
    "no argument": (None, "nothing was given; expected photos or a tensor"),
    "a number": (3, "a int was given; expected a path"),
    "integers": (torch.zeros(1, 3, 32, 48, dtype=torch.int64), "expected floating image colour rows columns"),
    "truth values": (np.zeros((1, 32, 48, 3), bool), "expected uint8"),
    "a grey array": (np.zeros((32, 48), np.uint8), "expected uint8"),
    "two axes": (torch.zeros(32, 48), "expected floating image colour rows columns"),
    "colours last in a tensor": (torch.zeros(1, 32, 48, 3), r"give them first: tensor\.permute\(0, 3, 1, 2\)"),
    "one, colours last": (torch.zeros(32, 48, 3), r"give them first: tensor\.permute\(2, 0, 1\)"),
    "bytes, colours last": (torch.zeros(32, 48, 3, dtype=torch.uint8), r"tensor\.permute\(2, 0, 1\)"),
    "a batch of grey images": (torch.zeros(5, 32, 48), "expected 3 colours first"),
    "four colours": (np.zeros((4, 32, 48), np.uint8), "fits neither colours first nor colours last"),
    "either order": (np.zeros((3, 32, 3), np.uint8), "fits colours first and colours last"),
    "either order of floats": (np.zeros((1, 3, 32, 3)), "fits colours first and colours last"),
    "two views": ([torch.zeros(2, 3, 32, 48)] * 2, "2 batches of images were given; observe one of them"),
    "sizes that differ": ([torch.zeros(3, 32, 48), torch.zeros(3, 32, 32)], "were given in one list; give one size"),
    "photos and tensors": ([np.zeros((9, 9, 3), np.uint8), torch.zeros(3, 32, 48)], "are mixed in one list"),
    "lists in a list": ([[np.zeros((9, 9, 3), np.uint8)]], "a list of lists was given"),
    "a dictionary without images": ({"foo": 3}, "only foo was given; expected photos or a tensor first"),
    "an empty dictionary": ({}, "nothing was given; expected photos or a tensor first, or under one of"),
    "images under two names": (
        {"image": floats(), "pixel_values": floats()},
        "images are given twice, as pixel_values and as image",
    ),
    "no image": (torch.zeros(0, 3, 32, 48), "expected at least one image"),
    "not a number": (torch.full((1, 3, 32, 48), float("nan")), "NaN or infinite values"),
    "infinite": (np.full((1, 3, 32, 48), np.inf, np.float32), "NaN or infinite values"),
}


@pytest.mark.parametrize(("given", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(given: Any, sentence: str) -> None:
    with pytest.raises(cl.InputError, match=sentence) as caught:
        model().observe(given)
    assert "\n" not in str(caught.value)


def test_a_wrong_type_is_a_type_error_too() -> None:
    with pytest.raises(TypeError, match="a dict_keys was given"):
        model().observe({}.keys())


def test_bytes_need_a_transform() -> None:
    with pytest.raises(cl.InputError, match=r"net has no transform, so photos cannot be read; give Backbone"):
        model(transform=False).observe(torch.zeros(1, 3, 32, 48, dtype=torch.uint8))


def test_titles_name_images_of_all_kinds() -> None:
    for given in (floats(), pixels()):
        assert [info.name for info in model().observe(given, titles=["a", "b"]).image_info] == ["a", "b"]
    with pytest.raises(cl.InputError, match="1 titles was given for 2 images"):
        model().observe(floats(), titles=["a"])
    with pytest.raises(cl.InputError, match="one text was given for 2 images"):
        model().observe(floats(), titles="ab")


class Drawn(Dataset[tuple[Tensor, int]]):
    """Six images with classes."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((3, *SIZE), float(index)), index % 4


def test_a_loader_is_looped_over_in_three_lines() -> None:
    loader = DataLoader(Drawn(), batch_size=4)
    shapes = []
    for images, labels in loader:
        observation = model().observe(images)
        shapes.append(tuple(cl.cam(observation, labels).maps.shape))
    assert shapes == [(4, 1, 4, 6), (2, 1, 4, 6)]
    assert torch.equal(model().observe(next(iter(loader))).images, next(iter(loader))[0])
    with pytest.raises(TypeError, match="a DataLoader was given; loop over it"):
        model().observe(loader)


class TestOtherInputs:
    MASK = torch.tensor([1.0, 0.25])

    def test_they_reach_the_module(self) -> None:
        network = model(Masked)
        observation = network.observe(floats(), mask=self.MASK, scale=2.0)
        assert_agree(observation.logits.detach(), network.module(floats(), self.MASK, 2.0).detach())
        assert network.default_layers == ("body",)

    def test_a_dictionary_passes_on_what_forward_names(self) -> None:
        network = model(Masked)
        given = {"images": floats(), "mask": self.MASK, "path": ["a", "b"], "label": torch.tensor([1, 2])}
        assert_agree(network.observe(given).logits.detach(), network.module(floats(), self.MASK).detach())
        again = network.observe({"images": floats()}, mask=self.MASK)
        assert_agree(again.logits.detach(), network.module(floats(), self.MASK).detach())

    def test_images_under_the_module_s_own_name(self) -> None:
        network = model(Named)
        expected = network.module(floats()).detach()
        assert_agree(network.observe(pixel_values=floats()).logits.detach(), expected)
        assert_agree(network.observe({"pixel_values": floats(), "labels": 3}).logits.detach(), expected)
        assert_agree(model().observe(pixel_values=floats()).logits.detach(), model().module(floats()).detach())

    def test_what_cannot_be_called_is_said(self) -> None:
        with pytest.raises(cl.InputError, match=r"net cannot be called so \(missing .*'mask'\); its forward takes"):
            model(Masked).observe(floats())
        with pytest.raises(cl.InputError, match=r"unexpected keyword argument 'mask'\); its forward takes images"):
            model().observe(floats(), mask=self.MASK)
        with pytest.raises(cl.InputError, match="images are given twice"):
            model(Named).observe(floats(), pixel_values=floats())
        with pytest.raises(cl.InputError, match=r"mask with 3 rows was given for 2 images, .*; give one row for each"):
            model(Masked).observe(floats(), mask=torch.ones(3))
        with pytest.raises(cl.InputError, match="only mask was given"):
            model(Masked).observe(mask=self.MASK)

    @pytest.mark.parametrize("rule", ["grad_cam", "score_cam", "ablation_cam", "layer_cam"])
    def test_they_go_with_each_image_where_it_is_run_again(self, rule: str) -> None:
        """A batch gives what its images give alone: every variant of an image comes with that image's mask."""
        network = model(Masked)
        together = cl.cam(network.observe(floats(), mask=self.MASK), 2, rule=rule).maps
        for i in range(2):
            alone = cl.cam(network.observe(floats()[i : i + 1], mask=self.MASK[i : i + 1]), 2, rule=rule).maps
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=1e-4)

    def test_a_rerun_carries_them(self) -> None:
        observation = model(Masked).observe(floats(), mask=self.MASK)
        again = observation.rerun(observation.feature()[1:].expand(3, -1, -1, -1), 1)
        torch.testing.assert_close(again.logits, observation.logits[1:].expand(3, -1).detach())
        torch.testing.assert_close(observation.forward(floats()[1:], 1).logits, observation.logits[1:].detach())
        with pytest.raises(cl.InputError, match="say which one they are variants of"):
            observation.forward(floats()[1:])

    def test_other_sizes_and_mirrors_are_refused(self) -> None:
        from conceptlens.model.input_sizes import cells_at, larger_sizes

        observation = model(Masked).observe(list(pixels()), mask=self.MASK)
        assert larger_sizes(observation, (1.0, 2.0)) == [SIZE]
        own = cells_at(observation, 1, SIZE, ["body"], mirrored=False)["body"][0]
        torch.testing.assert_close(own, observation.feature()[1])
        with pytest.raises(cl.InputError, match="mask, which cannot be mirrored or resized with the photo"):
            cells_at(observation, 1, SIZE, ["body"], mirrored=True)


@pytest.mark.parametrize("index", [np.int64(2), np.uint8(2), torch.tensor(2), 2, "c"])
def test_a_class_by_every_kind_of_integer(index: Any) -> None:
    assert model(class_names=("a", "b", "c", "d")).class_index(index) == 2


@pytest.mark.parametrize("index", [2.0, True, np.float32(2), torch.tensor(2.0), torch.tensor([2]), None, b"c"])
def test_what_is_no_class(index: Any) -> None:
    with pytest.raises(TypeError, match="expected a name or an integer"):
        model(class_names=("a", "b", "c", "d")).class_index(index)


def test_an_observation_is_shown_in_a_few_lines() -> None:
    found = model(class_names=("a", "b", "c", "d")).observe(floats(5)[:, :, :16], layers=("stem", "body"))
    lines = repr(found).split("\n")
    assert lines[:4] == [
        "Observation of net: 5 images of 3 x 16 x 48 on cpu",
        "  images: tensor[0], tensor[1], tensor[2] and 2 more",
        "  layer stem: 6 channels, 4 x 12 cells",
        "  layer body: 8 channels, 2 x 6 cells",
    ]
    assert lines[4].startswith("  predicted: ")
    assert len(lines) == 5


class Sequence(nn.Module):
    """A network of tokens whose first axis is that of the tokens: `token image channel`."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 5, 8, stride=8)
        self.mix = nn.Linear(5, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.mix(self.patch(images).flatten(2).permute(2, 0, 1))
        return self.head(tokens.mean(0))


@pytest.mark.parametrize("count", [1, 2, 23, 24, 25])
def test_the_layout_of_a_layer_does_not_depend_on_the_batch(count: int) -> None:
    """24 tokens of 24 images could be read either way; the layer is read as it is for any other batch."""
    network = cl.Backbone(Sequence().eval(), "sequence", input_size=SIZE)
    observation = network.observe(floats(count), layers="mix")
    assert observation.layer_output().grid.order == "token image channel"
    for i in (0, count - 1):
        alone = network.observe(floats(count)[i : i + 1], layers="mix").feature()
        torch.testing.assert_close(observation.feature()[i : i + 1], alone)
    assert_agree(layer_cells(network, floats(count), ["mix"])["mix"], observation.feature())


def test_layers_are_read_alike_everywhere() -> None:
    """The cells of an observation are those of a forward pass without a graph, under each setting of the model."""
    for layers, settings in ((["body"], {}), (["stem", "body"], {"channels_last": False})):
        network = model(**settings)
        observation = network.observe(floats(), layers=layers)
        for name, cells in layer_cells(network, floats(), layers).items():
            assert_agree(cells, observation.feature(name))
            assert not cells.requires_grad
    with pytest.raises(cl.InputError, match="no layer 'tail' in net"):
        layer_cells(model(), floats(), ["tail"])


def test_a_layer_that_runs_twice_is_refused_everywhere() -> None:
    class Twice(Net):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.body[1](self.body(self.stem(images))).mean((2, 3)))

    network = cl.Backbone(Twice().eval(), "twice", input_size=SIZE)
    with pytest.raises(cl.InputError, match="runs more than once"):
        network.observe(floats(), layers=r"body.1")
    with pytest.raises(cl.InputError, match="runs more than once"):
        layer_cells(network, floats(), ["body.1"])


def test_photos_of_different_sizes_need_a_crop() -> None:
    network = dataclasses.replace(model(), transform=lambda photo: torch.zeros(3, photo.height, photo.width))
    with pytest.raises(cl.InputError, match=r"for the photos of one batch; crop to one size"):
        network.observe([Image.new("RGB", (40, 40)), Image.new("RGB", (40, 48))])
    broken = dataclasses.replace(model(), transform=lambda photo: np.zeros((3, 8, 8)))
    with pytest.raises(cl.InputError, match="transform gave a ndarray; expected a tensor of colour rows columns"):
        broken.observe(Image.new("RGB", (40, 40)))


class TestTextsFirst:
    """Images go to where the module takes them, also where that is not the first place."""

    def test_images_are_not_taken_as_texts(self) -> None:
        photos, words = torch.rand(2, 3, *SIZE), torch.tensor([[1, 2], [3, 4]])
        found = model(TextsFirst, task="single_label").observe(photos, input_ids=words)
        assert torch.equal(found.logits, found.model.module(words, photos))
        by_name = found.model.observe(pixel_values=photos, input_ids=words)
        assert torch.equal(by_name.logits, found.logits)
        assert bool(cl.cam(found, 1, "score_cam").maps.isfinite().all())

    def test_what_is_missing_is_said(self) -> None:
        with pytest.raises(cl.InputError, match=r"takes input_ids before pixel_values.*observe\(images, input_ids="):
            model(TextsFirst, task="single_label").observe(torch.rand(2, 3, *SIZE))

    def test_images_are_not_given_twice(self) -> None:
        with pytest.raises(cl.InputError, match="images are given twice"):
            model(TextsFirst).observe(torch.rand(2, 3, *SIZE), pixel_values=torch.rand(2, 3, *SIZE))
