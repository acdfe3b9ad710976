"""Regions by competition against loops from the steps of its description: slow, float64, no code of the package."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import conceptlens as cl
from branches import CLIP, DIMENSION, PLAIN, Words, branch_of, text_vector
from conceptlens.concept_regions import competition
from conceptlens.concept_regions.competition import Competition, compete
from conceptlens.concepts.class_knowledge import imagenet_knowledge
from conceptlens.concepts.vocabulary import ConceptName, everyday_words, parse_concepts, prompt

pytestmark = pytest.mark.wide

DOUBLE = torch.float64
SIZE = (32, 64)
STAGES = ("first", "second")
ASKED = parse_concepts("cat, a made-up thing, zebra print:texture")
KNOWN = tuple(c for c in everyday_words() if c.label in ("cat", "dog", "wheel", "grass", "red", "wood", "sky", "car"))
HOW = Competition(input_scales=(1.0, 2.0), mirrored=True, centering=0.5, grid=5, propagation_steps=2)


class Staged(nn.Module):
    """Two stages and a head that embeds; the last stage's mean is the image vector."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4, padding=2), nn.Tanh())
        self.second = nn.Sequential(nn.Conv2d(8, DIMENSION, 3, stride=2, padding=1), nn.Tanh())

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images)).mean((2, 3))


def photo(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((171, 83), Image.Resampling.BICUBIC)


def shown(picture: Image.Image, size: tuple[int, int], squash: bool) -> Tensor:
    """The photo squashed to `size`, or scaled to cover it (never cut short) and its centre cut out."""
    width, height = picture.size
    if squash:
        resized = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    else:
        scale = max(size[0] / height, size[1] / width)
        resized = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    top, left = round((resized.height - size[0]) / 2), round((resized.width - size[1]) / 2)
    values = np.asarray(resized.crop((left, top, left + size[1], top + size[0])), np.float64) / 255
    return torch.from_numpy((values - 0.5) / 0.25).permute(2, 0, 1)


def on_grid(cells: Tensor, grid: int) -> Tensor:
    """Bilinear, cell centres keep their place."""
    rows, columns = cells.shape[1:]
    found = torch.zeros(len(cells), grid, grid, dtype=DOUBLE)
    for y in range(grid):
        for x in range(grid):
            v = min(max((y + 0.5) * rows / grid - 0.5, 0), rows - 1)
            u = min(max((x + 0.5) * columns / grid - 0.5, 0), columns - 1)
            top, left = int(v), int(u)
            below, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            high = cells[:, top, left] * (1 - (u - left)) + cells[:, top, right] * (u - left)
            low = cells[:, below, left] * (1 - (u - left)) + cells[:, below, right] * (u - left)
            found[:, y, x] = high * (1 - (v - top)) + low * (v - top)
    return found


def centred(cells: Tensor, part: float = 1.0) -> Tensor:
    mean = sum(cells[:, y, x] for y in range(cells.shape[1]) for x in range(cells.shape[2]))
    return cells - part * (mean / (cells.shape[1] * cells.shape[2]))[:, None, None]


def flat(cells: Tensor) -> list[Tensor]:
    return [cells[:, y, x] for y in range(cells.shape[1]) for x in range(cells.shape[2])]


def slow_regions(
    net: Staged,
    betas: dict[ConceptName, Tensor],
    picture: Image.Image,
    how: Competition,
    squash: bool,
    asked: Sequence[ConceptName] = ASKED,
    by_classes: dict[ConceptName, Tensor] | None = None,
) -> Tensor:
    """Return `(share * words)^power` of every asked concept, step by step."""
    sizes = [(round(SIZE[0] * f), round(SIZE[1] * f)) for f in how.input_scales]
    looks, stages = [], []
    with torch.no_grad():
        for size in sizes:
            image = shown(picture, size, squash).float().double()[None]
            first = net.first(image)
            second = net.second(first)
            looks.append(second[0])
            if how.mirrored:
                looks.append(net.second(net.first(image.flip(3)))[0].flip(2))
            stages.append((first[0], second[0]))
    # 2. unit cells, each less a part of the mean cell, averaged on one grid
    total = torch.zeros(DIMENSION, how.grid, how.grid, dtype=DOUBLE)
    as_long_as_they_are = sum(on_grid(cells, how.grid) for cells in looks)
    for cells in looks:
        plain = centred(cells, how.centering)
        unit = plain.clone()
        for y in range(plain.shape[1]):
            for x in range(plain.shape[2]):
                unit[:, y, x] = plain[:, y, x] / math.sqrt(sum(float(v) ** 2 for v in plain[:, y, x]))
        total += on_grid(unit, how.grid)
    cells = flat(total / len(looks))

    def standard_scores(concept: ConceptName, cells: list[Tensor]) -> list[float]:
        readers = [betas[concept], *([] if by_classes is None or concept not in by_classes else [by_classes[concept]])]
        scores = [0.0] * len(cells)
        for beta in readers:
            raw = [float(beta @ cell) for cell in cells]
            mean = sum(raw) / len(raw)
            spread = math.sqrt(sum((v - mean) ** 2 for v in raw) / (len(raw) - 1))
            scores = [s + (v - mean) / spread / len(readers) for s, v in zip(scores, raw, strict=True)]
        return scores

    scores = {concept: standard_scores(concept, cells) for concept in betas}
    # 4. how alike cells are, in the mean over the stages at the middle size
    middle = stages[len(stages) // 2]
    alike = [[0.0] * len(cells) for _ in cells]
    for stage in middle:
        ones = flat(centred(on_grid(stage, how.grid)))
        for a in range(len(cells)):
            for b in range(len(cells)):
                cosine = float(ones[a] @ ones[b] / ones[a].norm() / ones[b].norm())
                alike[a][b] += cosine / len(middle)
    flow = [[math.exp(v / how.affinity_temperature) for v in row] for row in alike]
    flow = [[v / sum(row) for v in row] for row in flow]
    # 3. shares, each against all words but the concept itself
    found = []
    for concept in asked:
        share = []
        if concept.type == "part":  # against the other cells of the photo, by cells as long as they are
            strong = [math.exp(how.sharpness * z) for z in standard_scores(concept, flat(as_long_as_they_are))]  # pyright: ignore[reportArgumentType]
            share = [s * len(strong) / sum(strong) / len(KNOWN) for s in strong]
        for c in range(len(cells) if concept.type != "part" else 0):
            own = math.exp(how.sharpness * scores[concept][c])
            rest = sum(math.exp(how.sharpness * scores[word][c]) for word in KNOWN if word != concept)
            share.append(own / (own + rest))
        for _ in range(how.propagation_steps):
            share = [sum(w * s for w, s in zip(row, share, strict=True)) for row in flow]
        found.append(
            torch.tensor([(s * len(KNOWN)) ** how.power for s in share], dtype=DOUBLE).reshape(how.grid, how.grid)
        )
    return torch.stack(found)


def slow_betas(
    net: Staged, branch: nn.Module | None, words: Words, image: Tensor, concepts: Sequence[ConceptName]
) -> dict[ConceptName, Tensor]:
    """Return each concept's `beta` at the last stage: one deep copy, forward and backward each."""
    found = {}
    for concept in concepts:
        one = copy.deepcopy(net)
        first = one.first(image[None].double())
        cells = one.second(first)
        cells.retain_grad()
        vector = cells.mean((2, 3))[0]
        if branch is not None:
            vector = copy.deepcopy(branch).double()(torch.cat([vector, first.mean((2, 3))[0]])[None])[0]
        text = text_vector(prompt(concept)).double()
        score = vector @ text
        if words.normalised:
            score = score / vector.norm() / text.norm()
        (words.scale * score).backward()
        found[concept] = cells.grad[0].mean((1, 2))
    return found


@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize("words", [CLIP, PLAIN], ids=["unit vectors", "plain vectors"])
@pytest.mark.parametrize("with_branch", [True, False])
@pytest.mark.parametrize(
    "how",
    [
        HOW,
        Competition((1.0,), False, 0.0, 6, 0.7, 0.3, 0, 1.0),
        Competition((1.0, 2.0, 3.0), True, 1.0, 4, 2.5, 0.1, 3),
    ],
)
def test_regions_are_those_of_the_description(
    monkeypatch: pytest.MonkeyPatch, how: Competition, with_branch: bool, words: Words, squash: bool
) -> None:
    monkeypatch.setattr(competition, "rival_words", lambda: KNOWN)
    net = Staged().double().eval()
    transform = cl.Preprocess(SIZE, (0.5,) * 3, (0.25,) * 3, crop_mode="squash" if squash else "center")
    model = cl.Backbone(net, "staged", ("second",), transform, task="embedding", text=words, input_size=SIZE)
    translator = branch_of(model, words, STAGES) if with_branch else None
    pictures = [photo(0), photo(1)]
    observation = model.observe(pictures, layers=STAGES)
    found = compete(observation, ASKED, translator, competition=how)
    assert found.maps.shape == (2, len(ASKED), how.grid, how.grid)
    wanted_sizes = tuple((round(SIZE[0] * f), round(SIZE[1] * f)) for f in how.input_scales)
    assert found.source.settings["input_sizes"] == wanted_sizes
    concepts = [*ASKED, *(word for word in KNOWN if word not in ASKED)]
    for i, picture in enumerate(pictures):
        betas = slow_betas(
            net, None if translator is None else translator.branch, words, observation.images[i], concepts
        )
        wanted = slow_regions(net, betas, picture, how, squash)
        assert float((found.maps[i].double() - wanted).abs().max()) < 2e-4 * float(wanted.max())


class Classified(Staged):
    """The same with a linear classifier behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(DIMENSION, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(super().forward(images))


CLASSES = ("tabby, tabby cat", "golden retriever", "sports car, sport car", "park bench", "zebra")


def test_what_classes_show_is_read_beside_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """`r_c / sum r - (1 - r_c) / sum (1 - r)` over the classes is a second direction where a class shows the word."""
    monkeypatch.setattr(competition, "rival_words", lambda: KNOWN)
    net = Classified().double().eval()
    transform = cl.Preprocess(SIZE, (0.5,) * 3, (0.25,) * 3, crop_mode="squash")
    model = cl.Backbone(net, "staged", ("second",), transform, class_names=CLASSES, classifier="head", input_size=SIZE)
    asked = parse_concepts("cat, wheel, grass, wheelbarrow")
    found = compete(model.observe(photo(0)), asked, competition=HOW)
    rows = net.head.weight.detach()
    table = imagenet_knowledge()
    column = {concept.label: i for i, concept in enumerate(table.concepts)}
    places = [[short.name for short in table.classes].index(name) for name in CLASSES]
    betas, by_classes = {}, {}
    for concept in [*asked, *(word for word in KNOWN if word not in asked)]:
        betas[concept] = model.language.encode_text([prompt(concept)])[0].double()
        shown = [
            float(table.rates[place, column[concept.label]]) if concept.label in column else 0.005 for place in places
        ]
        if max(shown) > 0.005:
            shown = [min(rate, 0.995) for rate in shown]
            hidden = [1 - rate for rate in shown]
            by_classes[concept] = sum(
                (r / sum(shown) - h / sum(hidden)) * row for r, h, row in zip(shown, hidden, rows, strict=True)
            )
    assert 0 < len(by_classes) < len(betas)
    wanted = slow_regions(net, betas, photo(0), HOW, True, asked, by_classes)
    assert float((found.maps[0].double() - wanted).abs().max()) < 2e-4 * float(wanted.max())
