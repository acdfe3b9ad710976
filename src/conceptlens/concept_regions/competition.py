"""Competing regions: a cell belongs to a concept as far as it fits better there than the vocabulary's words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from conceptlens.cams.class_activation import source
from conceptlens.concept_regions.branch import branch_layers
from conceptlens.concept_regions.concept_scores import ConceptScores, score_concepts
from conceptlens.concepts.vocabulary import ConceptName, everyday_words, parse_concepts
from conceptlens.io.errors import InputError
from conceptlens.model.encoders import ClassifierText
from conceptlens.model.forward import full_precision
from conceptlens.model.input_sizes import cells_at, larger_sizes
from conceptlens.model.observation import Observation, check_observation
from conceptlens.model.pooled_cells import mean_jacobian
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.model.backbone import Backbone
    from conceptlens.model.encoders import VisionLanguage


@dataclass(frozen=True)
class Competition:
    """Settings of `compete`; the defaults were chosen by localisation on the train photos of a COCO sample.

    By default a photo is run once more, at 1.3 times its rows and columns; `FINE` runs it at three sizes and mirrored,
    `COARSE` at its own size alone, whose cells the first run can keep (`Backbone.observe_ready(..., beside=)`).

    Args:
        input_scales: Input sizes, as multiples of the model's own, as far as it accepts others.
        mirrored: Whether each size is also run mirrored.
        centering: Share of the photo's mean cell that is subtracted from every cell, from 0 to 1: large values favour
            small things, small ones what covers most of a photo.
        grid: Rows and columns of the maps.
        sharpness: Factor before the softmax over the words of a cell: 0 shares it evenly.
        affinity_temperature: Temperature of the softmax over the cosines of a cell with all cells.
        propagation_steps: How often shares are averaged over similar cells.
        power: Exponent of the maps; it changes no ranking of cells, only how much weak cells weigh.

    Raises:
        InputError: For a number out of its range.
    """

    input_scales: tuple[float, ...] = (1.3,)
    mirrored: bool = False
    centering: float = 0.25
    grid: int = 28
    sharpness: float = 1.5
    affinity_temperature: float = 0.15
    propagation_steps: int = 3
    power: float = 2.0

    def __post_init__(self) -> None:
        """Check every number."""
        above = {"grid": self.grid, "affinity_temperature": self.affinity_temperature, "power": self.power}
        wrong = [f"{name}={value}" for name, value in above.items() if not 0 < value < float("inf")]
        scales = self.input_scales
        wrong += [f"input_scales={scales}"] if not scales or not all(0 < f < 100 for f in scales) else []
        wrong += [f"sharpness={self.sharpness}"] if not 0 <= self.sharpness < float("inf") else []
        wrong += [f"propagation_steps={self.propagation_steps}"] if self.propagation_steps < 0 else []
        wrong += [f"centering={self.centering}"] if not 0 <= self.centering <= 1 else []
        if wrong:
            raise InputError(
                f"a competition with {', '.join(wrong)} was given; input_scales, grid, affinity_temperature "
                "and power are above 0, sharpness and propagation_steps at least 0, centering between 0 and 1"
            )


# About eleven times the arithmetic of the default.
FINE = Competition(input_scales=(1.0, 2.0, 4.0), mirrored=True)
COARSE = Competition(input_scales=(1.0,))
# What kinds of competing regions are called.
COMPETITIONS = {"competing": Competition(), "fine": FINE, "coarse": COARSE}


def compete(
    observation: Observation,
    concepts: str | Iterable[str | ConceptName],
    language: VisionLanguage | Sequence[VisionLanguage] | None = None,
    layer: str | None = None,
    competition: Competition | None = None,
) -> Explanation:
    """Return regions of concepts, each in competition with the package's vocabulary.

    Beyond CE-FAM, whose region of a concept does not depend on whether another word fits a cell better:

    1. `beta`, CE-FAM's channel weights of each concept and of some 350 everyday words, at `layer`; and those
       of the direction that tells the classes that show it from the others, where they are known (`ClassConcepts`).
    2. Cells of several input sizes and of the mirrored photo, each less a part of the photo's mean cell and of unit
       length, averaged on one grid; a word's score at a cell is `beta . cell`, standardised over the photo, and the
       mean over texts, classes, and several `language` pairs (the model's own and a trained branch).
    3. The share of concept `t` in a cell: `e^(s z_t) / (e^(s z_t) + sum_w e^(s z_w))` over all words `w` but `t`. It
       does not depend on the other concepts.
    4. Shares are averaged over cells that are alike in the finest and the coarsest of the network's last four stages,
       so that a region fills its object.

    A part (*beak*, *wheel*) does not compete with words: those of its whole always win there. Its scores are of the
    cells as long as they are, which are longest where the network responds most, and its strength in a cell is
    `e^(s z)` over the mean of that over the photo.

    Nothing is trained and no mask is read.

    Args:
        observation: Photos, which are run again at other sizes.
        concepts: Concepts to find.
        language: One or several vision-language pairs; by default the model's own.
        layer: Layer whose cells are scored; by default the observation's.
        competition: Settings; by default `Competition()`.

    Returns:
        Maps `(share * words)^power`, on `grid` rows and columns: 1 where a concept has no more than the even share of
        a cell; of parts, their strength to that power. They have no channel weights.

    Raises:
        InputError: The model was observed with other inputs, which cannot be mirrored with the photo.
        InputTypeError: `observation` is no `Observation`.
    """
    check_observation(observation)
    settings = competition or Competition()
    name = layer or observation.layer
    pairs = _several(language or observation.model.language)
    named = parse_concepts(concepts)
    words = _with_rivals(named)
    known = set(rival_words())
    rivals = torch.tensor([word in known for word in words], device="cpu")
    gathered = [score_concepts(observation, pair, words) for pair in pairs]
    weights = torch.stack([row for scored in gathered for row in _channel_weights(observation, scored, name)], dim=1)
    sizes = larger_sizes(observation, settings.input_scales)
    stages = affinity_layers(observation.model)
    parts = [concept.type == "part" for concept in named]
    regions = [
        _region_strengths(
            _photo_cells(observation, i, name, stages, sizes, settings), weights[i], rivals, settings, parts
        )
        for i in range(len(observation.image_info))
    ]
    scored = gathered[0]
    chosen = scored.all_indices()[:, : len(named)]
    record = {"text": " + ".join(pair.name for pair in pairs), **asdict(settings), "input_sizes": tuple(sizes)}
    return Explanation(
        maps=torch.stack(regions) ** settings.power,
        weights=None,
        scores=scored.scores[:, : len(named)],
        labels=scored.labels(chosen),
        concept_types=scored.types(chosen),
        source=source(observation, name, "competition", record),
    )


def rival_words() -> tuple[ConceptName, ...]:
    """Return the words that compete for the cells: every fourth of the everyday words, which do as well as all."""
    return everyday_words()[::4]


def _with_rivals(named: Sequence[ConceptName]) -> list[ConceptName]:
    """Return the concepts, followed by every other word that competes."""
    own = set(named)
    return [*named, *(word for word in rival_words() if word not in own)]


def affinity_layers(model: Backbone) -> tuple[str, ...]:
    """Return the layers whose cells say which cells are alike: the finest and the coarsest of the last four stages.

    Args:
        model: The model.
    """
    stages = branch_layers(model)
    return tuple(dict.fromkeys((stages[0], stages[-1])))


def _channel_weights(
    observation: Observation, scored: ConceptScores, layer: str
) -> list[Float[Tensor, "image text channel"]]:
    """Return `beta` of every concept by its text and, of a classifier whose classes are known, by its classes.

    However many the concepts, it takes as many products as the image vector has entries; these touch no cell where
    the image vector depends on the cells through their mean alone (`mean_jacobian`).
    """
    root = scored.image_vectors
    vectors = [scored.score_gradients(scored.all_indices())]
    if isinstance(scored.language, ClassifierText) and (known := observation.model.class_concepts) is not None:
        by_classes = known.directions(scored.concepts, scored.language.rows).to(vectors[0])
        vectors.append(by_classes.expand(len(root), -1, -1))
    if observation.readout(root, layer) is not None:  # every cell has the same gradient
        return [observation.pull(root, vector.to(root), layer)[..., 0, 0].float() for vector in vectors]
    change = _mean_gradients(observation, root, layer)
    with full_precision(change):
        return [(vector.to(change) @ change).float() for vector in vectors]


def _mean_gradients(observation: Observation, root: Tensor, layer: str) -> Float[Tensor, "image dimension channel"]:
    """Return the mean over cells of the gradient of each entry of the image vectors."""
    output = observation.layer_output(layer)
    change = mean_jacobian(root, output)
    if change is not None:
        return change / (output.grid.height * output.grid.width)
    basis = torch.eye(root.shape[1], dtype=root.dtype, device=root.device).expand(len(root), -1, -1)
    return observation.pull_means(root, basis, [layer])[layer]


@dataclass(frozen=True, eq=False)
class _PhotoCells:
    """One photo's cells, a tensor for each size and mirror, and the weight of each cell in the mean of another."""

    looks: list[Float[Tensor, "channel height width"]]
    centering: float
    affinity: Float[Tensor, "cell cell"]

    def scores(
        self, weights: Float[Tensor, "pair text channel"], grid: int, of_length_one: bool
    ) -> Float[Tensor, "text cell"]:
        """Return the mean over pairs and looks of the standardised `weights . cell`, put on the grid afterwards."""
        looks = self.looks
        if of_length_one:
            looks = [F.normalize(_centred(cells, self.centering), dim=0) for cells in looks]
        known = (weights != 0).any(2, keepdim=True)  # no class is known to show some words
        found = weights.new_zeros(weights.shape[1], grid * grid)
        for weight, counted in zip(weights, known, strict=True):
            scores = sum(_on_grid(torch.einsum("tc,chw->thw", weight, cells), grid) for cells in looks)
            assert isinstance(scores, Tensor)
            found.addcmul_(_standardised(scores.flatten(1)), counted)
        return found / known.sum(0).clamp_min(1)


def _photo_cells(
    observation: Observation,
    image: int,
    layer: str,
    stages: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    settings: Competition,
) -> _PhotoCells:
    by_size = [cells_at(observation, image, size, {layer, *stages}, settings.mirrored) for size in sizes]
    looks = [cells for found in by_size for cells in found[layer]]
    middle = by_size[len(by_size) // 2]
    similarities = _cell_cosines(middle[stages[0]][0], settings.grid)
    for name in stages[1:]:
        similarities += _cell_cosines(middle[name][0], settings.grid)
    affinity = similarities.div_(len(stages) * settings.affinity_temperature).softmax(1)
    return _PhotoCells(looks, settings.centering, affinity)


def _region_strengths(
    photo: _PhotoCells,
    weights: Float[Tensor, "pair text channel"],
    rivals: Tensor,
    settings: Competition,
    parts: Sequence[bool],
) -> Float[Tensor, "concept row column"]:
    """Return how strong the first texts are in one photo's cells, 1 where no more than even.

    `rivals` are the texts that are everyday words; `parts` says which of the first texts are parts of things.
    """
    scores = photo.scores(weights, settings.grid, of_length_one=True)
    strength = _shares(scores, len(parts), rivals.to(scores.device), settings.sharpness) * int(rivals.sum())
    chosen = [q for q, part in enumerate(parts) if part]
    if chosen:
        own = settings.sharpness * photo.scores(weights[:, chosen], settings.grid, of_length_one=False)
        strength[chosen] = own.softmax(1) * own.shape[1]
    for _ in range(settings.propagation_steps):
        strength = strength @ photo.affinity.T
    return strength.unflatten(1, (settings.grid, settings.grid))


def _cell_cosines(cells: Float[Tensor, "channel height width"], grid: int) -> Float[Tensor, "cell cell"]:
    """Return the cosine of every two cells of the grid, each less the mean cell of the grid.

    Cells of the grid are weighted means of the layer's, so where these are fewer, their products are taken first and
    then put on the grid, in both of their places.
    """
    if cells[0].numel() > grid * grid:
        unit = F.normalize(_centred(_on_grid(cells, grid)), dim=0).flatten(1)
        return unit.T @ unit
    flat = cells.flatten(1)
    products = flat.T @ flat
    for _ in range(2):
        products = _on_grid(products.unflatten(1, cells.shape[1:]), grid).flatten(1).T
    products = products - products.mean(0)
    products = products - products.mean(1, keepdim=True)
    lengths = products.diagonal().clamp_min(1e-24).sqrt()
    return products / lengths / lengths[:, None]


def _shares(
    scores: Float[Tensor, "text cell"], count: int, rivals: Tensor, sharpness: float
) -> Float[Tensor, "concept cell"]:
    """Return the share of each of the first `count` texts in every cell, against all words but itself."""
    sharp = sharpness * scores
    strength = (sharp - sharp.amax(0)).exp()
    all_words = strength[rivals].sum(0)
    rest = (all_words - strength[:count] * rivals[:count, None]).clamp_min(0)
    return strength[:count] / (strength[:count] + rest)


def _standardised(scores: Float[Tensor, "text cell"]) -> Float[Tensor, "text cell"]:
    centred = scores - scores.mean(1, keepdim=True)
    # As torch.std, in a quarter of its time.
    spread = (torch.einsum("tc,tc->t", centred, centred) / (scores.shape[1] - 1)).sqrt().clamp_min(1e-12)
    return centred.div_(spread[:, None])


def _several(language: VisionLanguage | Sequence[VisionLanguage]) -> list[VisionLanguage]:
    return list(language) if isinstance(language, (list, tuple)) else [language]  # pyright: ignore[reportReturnType]


def _centred(cells: Float[Tensor, "channel height width"], part: float = 1.0) -> Float[Tensor, "channel height width"]:
    return cells - part * cells.mean((1, 2), keepdim=True)


def _on_grid(cells: Float[Tensor, "channel height width"], grid: int) -> Float[Tensor, "channel row column"]:
    return F.interpolate(cells[None], size=(grid, grid), mode="bilinear", align_corners=False)[0]
