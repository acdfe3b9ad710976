"""Ranges of contributions: the six changes against plain numpy, the ranges against six explanations by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import conceptlens as cl
from branches import text_vector
from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.explainer.photo_changes import photo_changes, with_intervals
from conceptlens.model.model_output import ModelOutput
from conceptlens.model.observation import Observation

NAMES = ("cat", "dog", "car", "tree", "cup", "bird", "house")
ASKED = [ConceptName("cat"), ConceptName("wheel"), ConceptName("red", "colour")]


class Few:
    """A pair of the model's vector and seeded words, which does not know one of them."""

    name, scale, normalised = "few", 1.0, False

    def encode_image(self, output: ModelOutput) -> Tensor:
        return output.embedding

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([text_vector(text, 12) for text in texts])

    def knows(self, labels: Sequence[str]) -> tuple[bool, ...]:
        return tuple(label != "blorfin" for label in labels)


class Net(nn.Module):
    """Cells of 8 x 8 pixels, a mean and a classifier; a mask, where given, dims its cells."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Sequential(nn.Conv2d(3, 12, 8, stride=8), nn.ReLU())
        self.head = nn.Linear(12, 7)

    def forward(self, images: Tensor, dim: Tensor | None = None) -> Tensor:
        cells = self.cells(images)
        return self.head((cells if dim is None else cells * dim[:, None, None, None]).mean((2, 3)))


def tiny() -> cl.Backbone:
    torch.manual_seed(0)
    return cl.Backbone(Net(), "tiny", ("cells",), class_names=NAMES, text=Few(), input_size=(40, 56))


def noise(images: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(images, 3, 40, 56, generator=torch.Generator().manual_seed(seed))


def mirrored_place(place: int, size: int) -> int:
    """Where a place beside the image lies in its mirror image at the border, whose own row is not doubled."""
    place = abs(place)
    return place if place < size else 2 * (size - 1) - place


def slow_changes(image: np.ndarray) -> list[np.ndarray]:
    """Mirrored; moved down, up, right and left by a fourteenth; and the inner nine tenths enlarged."""
    _, rows, columns = image.shape
    down, right = round(rows / 14), round(columns / 14)
    changes = [image[:, :, ::-1]]
    for dy, dx in ((down, 0), (-down, 0), (0, right), (0, -right)):
        moved = np.zeros_like(image)
        for y in range(rows):
            for x in range(columns):
                moved[:, y, x] = image[:, mirrored_place(y - dy, rows), mirrored_place(x - dx, columns)]
        changes.append(moved)
    top, left = round(rows / 20), round(columns / 20)
    inner = image[:, top : rows - top, left : columns - left]
    enlarged = np.zeros_like(image)
    for y in range(rows):
        for x in range(columns):
            v = min(max((y + 0.5) * inner.shape[1] / rows - 0.5, 0), inner.shape[1] - 1)
            u = min(max((x + 0.5) * inner.shape[2] / columns - 0.5, 0), inner.shape[2] - 1)
            a, b = int(v), int(u)
            c, d = min(a + 1, inner.shape[1] - 1), min(b + 1, inner.shape[2] - 1)
            above = (1 - u + b) * inner[:, a, b] + (u - b) * inner[:, a, d]
            below = (1 - u + b) * inner[:, c, b] + (u - b) * inner[:, c, d]
            enlarged[:, y, x] = (1 - v + a) * above + (v - a) * below
    return [*changes, enlarged]


def by_hand(
    observation: Observation, image: int, concepts: Any, target: int, against: int | None = None, **settings: Any
) -> Tensor:
    """Return the contributions to a photo and to its six changes, each explained by itself."""
    photo = observation.images[image].detach().numpy()
    model, rows = observation.model, []
    for one in (photo, *slow_changes(photo)):
        seen = model.observe(torch.from_numpy(np.ascontiguousarray(one))[None])
        found = cl.explain(seen, concepts, target, against=against, regions="official", **settings).contributions
        assert found is not None
        rows.append(found)
    return torch.cat(rows)


@pytest.mark.parametrize(("rows", "columns"), [(40, 56), (28, 28), (31, 45), (9, 5)])
def test_the_changes_are_those_of_plain_numpy(rows: int, columns: int) -> None:
    image = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(0))
    if min(rows, columns) / 14 < 0.5:  # a small image is still moved by a pixel
        assert not torch.equal(photo_changes(image[None])[1], image)
        return
    found, expected = photo_changes(image[None]), slow_changes(image.numpy())
    assert found.shape == (6, 3, rows, columns)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other, atol=5e-5)
        assert not torch.equal(one, image)


@pytest.mark.parametrize("against", [None, 4])
def test_ranges_are_those_of_six_photos_explained_by_hand(against: int | None) -> None:
    observation = tiny().observe(noise())
    found = cl.explain(observation, ASKED, [1, 2], against=against, regions="official", intervals=True)
    low, high, own = found.contributions_low, found.contributions_high, found.contributions
    assert low is not None
    assert high is not None
    assert own is not None
    for i, target in enumerate((1, 2)):
        rows = by_hand(observation, i, ASKED, target, against)
        torch.testing.assert_close(own[i], rows[0], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(low[i], rows.amin(0), atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(high[i], rows.amax(0), atol=1e-6, rtol=1e-4)
    assert bool(((low <= own) & (own <= high)).all())
    assert bool((low < high).any())
    plain = cl.explain(observation, ASKED, [1, 2], against=against, regions="official")
    assert (plain.contributions_low, plain.contributions_high) == (None, None)
    torch.testing.assert_close(plain.contributions, own)


def test_the_class_of_a_range_is_the_one_predicted_for_the_photo_itself() -> None:
    """A change of the photo that is answered otherwise is still asked about the answer to the photo."""
    observation = tiny().observe(noise())
    answers = observation.logits.argmax(1).tolist()
    open_, named = (cl.explain(observation, ASKED, t, regions="official", intervals=True) for t in (None, answers))
    torch.testing.assert_close(open_.contributions_low, named.contributions_low)
    torch.testing.assert_close(open_.contributions_high, named.contributions_high)


def test_concepts_that_shared_the_photo_share_its_changes() -> None:
    """Of twice as many candidates those that count most are shown; all of them share the cells of the changes too."""
    observation = tiny().observe(noise(1))
    found = cl.explain(observation, target=1, against=4, top=2, regions="official", intervals=True)
    candidates = cl.explain(observation, target=1, top=4, regions="official")
    labels = candidates.labels[0]
    rows = by_hand(observation, 0, [ConceptName(*one) for one in zip(labels, candidates.concept_types[0], strict=True)],
                   1, 4)  # fmt: skip
    best = rows[0].abs().topk(2).indices
    assert found.labels[0] == tuple(labels[int(q)] for q in best)
    assert found.contributions_low is not None
    assert found.contributions_high is not None
    torch.testing.assert_close(found.contributions_low[0], rows.amin(0)[best], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found.contributions_high[0], rows.amax(0)[best], atol=1e-6, rtol=1e-4)


def test_what_only_fills_up_a_batch_has_no_range_and_takes_nothing_from_the_others() -> None:
    observation = tiny().observe(noise(1))
    again = partial(cl.explain, regions="official")
    plain = again(observation, ASKED, 1)
    assert plain.contributions is not None
    counted = plain.contributions * torch.tensor([[1.0, 0.0, 1.0]])
    found = replace(plain, presence=torch.tensor([[0.9, 0.4, 0.6]]), contributions=counted)
    ranged = with_intervals(observation, found, again, 1, named=False)
    rows = by_hand(observation, 0, [ASKED[0], ASKED[2]], 1)[1:]
    rows = torch.cat([counted[:, [0, 2]], rows])
    assert ranged.contributions_low is not None
    assert ranged.contributions_high is not None
    assert float(ranged.contributions_low[0, 1]) == float(ranged.contributions_high[0, 1]) == 0
    torch.testing.assert_close(ranged.contributions_low[0, [0, 2]], rows.amin(0), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(ranged.contributions_high[0, [0, 2]], rows.amax(0), atol=1e-6, rtol=1e-4)
    named = with_intervals(observation, found, again, 1)
    assert named.contributions_low is not None
    assert bool(named.contributions_low[0, 1])
    none = replace(found, presence=torch.zeros(1, 3), contributions=torch.zeros(1, 3))
    empty = with_intervals(observation, none, again, 1, named=False).contributions_high
    assert empty is not None
    assert not bool(empty.any())


def test_a_photo_of_one_colour_has_ranges_of_no_width() -> None:
    observation = tiny().observe(torch.full((1, 3, 40, 56), 0.7))
    found = cl.explain(observation, ASKED, 1, regions="official", intervals=True)
    assert found.contributions is not None
    assert bool(found.contributions.any())
    torch.testing.assert_close(found.contributions_low, found.contributions, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found.contributions_high, found.contributions, atol=1e-6, rtol=1e-4)


def test_a_photo_that_is_its_own_mirror_image_is_not_changed_by_the_mirror() -> None:
    half = noise(1)[..., :28]
    image = torch.cat([half, half.flip(3)], 3)
    changes = photo_changes(image)
    assert torch.equal(changes[0], image[0])
    assert torch.equal(changes[3], changes[4].flip(2))  # to the right is to the left in the mirror
    torch.testing.assert_close(changes[5], changes[5].flip(2), atol=1e-5, rtol=0)
    assert not torch.equal(changes[3], changes[4])


def test_an_unknown_word_has_a_range_of_nan() -> None:
    observation = tiny().observe(noise(1))
    found = cl.explain(observation, "cat, blorfin, wheel", 1, regions="official", intervals=True)
    without = cl.explain(observation, "cat, wheel", 1, regions="official", intervals=True)
    for name in ("contributions", "contributions_low", "contributions_high"):
        row, other = getattr(found, name)[0], getattr(without, name)[0]
        assert row.isnan().tolist() == [False, True, False]
        torch.testing.assert_close(row[[0, 2]], other)
    torch.testing.assert_close(found.unnamed, without.unnamed)


def test_other_inputs_are_refused() -> None:
    observation = tiny().observe(noise(), dim=torch.ones(2))
    assert observation.given.others
    with pytest.raises(cl.InputError, match=r"tiny was observed with dim, which cannot be shifted .* leave intervals"):
        cl.explain(observation, ASKED, 1, regions="official", intervals=True)


def test_masking_has_ranges_too() -> None:
    observation = tiny().observe(noise(1))
    found = cl.explain(observation, ASKED, 1, regions="official", contribution="masking", intervals=True)
    rows = by_hand(observation, 0, ASKED, 1, contribution="masking")
    torch.testing.assert_close(found.contributions_low, rows.amin(0, keepdim=True), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.contributions_high, rows.amax(0, keepdim=True), atol=1e-5, rtol=1e-4)
    assert found.margins is None
