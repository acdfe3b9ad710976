"""Regions by competition: a cell belongs to the concept that fits it better than everyday words do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from conceptlens.cams.class_activation import source
from conceptlens.concept_regions.branch import branch_layers
from conceptlens.concept_regions.concept_scores import Evidence, gather_evidence
from conceptlens.concepts.vocabulary import ConceptName, parse_concepts, vocabulary
from conceptlens.io.errors import InputError
from conceptlens.model.forward import full_precision
from conceptlens.model.input_sizes import cells_at, larger_sizes
from conceptlens.model.observation import Observation
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.model.backbone import Backbone
    from conceptlens.model.encoders import VisionLanguage


@dataclass(frozen=True)
class Competition:
    """How regions compete; the defaults were chosen on the train photos of a COCO sample, by localisation.

    - `sizes`: the model looks at the photo at its own size times these, as far as it accepts other sizes.
    - `mirrored`: it also looks at each in a mirror.
    - `centred`: how much of the photo's mean cell is taken from every cell. All of it (1) sets small things apart, but
      takes away what covers most of a photo; none of it (0) favours what covers most.
    - `grid`: rows and columns of the maps.
    - `sharpness` divides a cell among the words: 0 evenly, large values give all of it to the best.
    - `affinity` is the temperature of the likeness of two cells, `steps` how often shares flow to like cells.
    - `contrast`: the power in the maps; it changes no ranking, only how much energy weak cells have.
    """

    sizes: tuple[float, ...] = (1.0, 2.0, 4.0)
    mirrored: bool = True
    centred: float = 0.5
    grid: int = 28
    sharpness: float = 1.5
    affinity: float = 0.15
    steps: int = 3
    contrast: float = 4.0

    def __post_init__(self) -> None:
        """Check every number."""
        above = {"grid": self.grid, "affinity": self.affinity, "contrast": self.contrast}
        wrong = [f"{name}={value}" for name, value in above.items() if not 0 < value < float("inf")]
        wrong += [f"sizes={self.sizes}"] if not self.sizes or not all(0 < f < 100 for f in self.sizes) else []
        wrong += [f"sharpness={self.sharpness}"] if not 0 <= self.sharpness < float("inf") else []
        wrong += [f"steps={self.steps}"] if self.steps < 0 else []
        wrong += [f"centred={self.centred}"] if not 0 <= self.centred <= 1 else []
        if wrong:
            raise InputError(
                f"a competition with {', '.join(wrong)} was asked for; sizes, grid, affinity and contrast are above 0, "
                "sharpness and steps at least 0, centred between 0 and 1"
            )


def compete(
    observation: Observation,
    concepts: str | Iterable[str | ConceptName],
    language: VisionLanguage | Sequence[VisionLanguage] | None = None,
    layer: str | None = None,
    competition: Competition | None = None,
) -> Explanation:
    """Return regions of named concepts, each in competition with the package's vocabulary.

    Beyond CE-FAM, whose region of a concept does not ask whether another word fits a cell better:

    1. `beta`, CE-FAM's channel weights of each concept and of every word of the vocabulary, at `layer`.
    2. Cells of several input sizes and of the mirrored photo, each less a part of the photo's mean cell and of unit
       length, averaged on one grid; a word's score at a cell is `beta . cell`, standardised over the photo. Of several
       `language` pairs (the model's own and a trained branch), the mean of their scores.
    3. The share of concept `t` in a cell: `e^(s z_t) / (e^(s z_t) + sum_w e^(s z_w))` over all words `w` but `t`. It
       does not depend on what else is asked.
    4. Shares flow to cells that look alike in all stages of the network, so that a region fills what it lies on.

    Maps are `(share * words)^contrast`, on a grid finer than the layer's: 1 where a concept has no more than the even
    share of a cell. They have no channel weights of their own. Nothing is trained and no mask is read. A tensor has no
    other sizes: `InputError`, unless the model, or `Competition(sizes=(1.0,))`, asks for none.
    """
    how = competition or Competition()
    name = layer or observation.layer
    pairs = _several(language or observation.model.language)
    asked = parse_concepts(concepts)
    gathered = [gather_evidence(observation, pair, _with_rivals(asked)) for pair in pairs]
    weights = torch.stack([_last_weights(observation, evidence, name).float() for evidence in gathered], dim=1)
    sizes = larger_sizes(observation, how.sizes)
    shares = [
        _shared(_looks(observation, i, name, sizes, how), weights[i], asked, how)
        for i in range(len(observation.image_info))
    ]
    evidence = gathered[0]
    chosen = evidence.all()[:, : len(asked)]
    settings = {"text": " + ".join(pair.name for pair in pairs), **asdict(how), "sizes": tuple(sizes)}
    return Explanation(
        maps=(torch.stack(shares) * len(vocabulary())) ** how.contrast,
        weights=None,
        scores=evidence.scores[:, : len(asked)],
        labels=evidence.labels(chosen),
        concept_types=evidence.types(chosen),
        source=source(observation, name, "competition", settings),
    )


def _with_rivals(asked: Sequence[ConceptName]) -> list[ConceptName]:
    """Return what is asked, followed by every word of the vocabulary that is not."""
    return [*asked, *(word for word in vocabulary() if word not in asked)]


def pairs_of(model: Backbone, branch: VisionLanguage | None) -> list[VisionLanguage]:
    """Return the pairs whose scores are averaged: the model's own, where it has one, and a trained branch.

    On COCO photos the two together are better than the branch alone, and as good as the own pair (docs/ce-fam.md).
    """
    if branch is None:
        return [model.language]
    try:
        return [model.language, branch]
    except InputError:  # a classifier without class names has no pair of its own
        return [branch]


def competing(
    observation: Observation,
    explained: Explanation,
    branch: VisionLanguage | None = None,
    layer: str | None = None,
) -> Explanation:
    """Return `explained` with the regions of `compete` in place of its own, which stay in `components`."""
    rows = [
        [ConceptName(label, kind) for label, kind in zip(labels, types, strict=True)]
        for labels, types in zip(explained.labels, explained.concept_types, strict=True)
    ]
    asked = list(dict.fromkeys(concept for row in rows for concept in row))
    found = compete(observation, asked, pairs_of(observation.model, branch), layer)
    place = torch.tensor([[asked.index(concept) for concept in row] for row in rows], device=found.maps.device)
    maps = found.maps.take_along_dim(place[..., None, None], dim=1)
    settings = {**explained.source.settings, **found.source.settings}
    method = f"{explained.source.method} with competing regions"
    origin = replace(explained.source, layer=found.source.layer, method=method, settings=settings)
    return replace(explained, maps=maps, weights=None, source=origin, layers=(), components=(explained,))


def _last_weights(observation: Observation, evidence: Evidence, layer: str) -> Float[Tensor, "image text channel"]:
    """Return `beta` of every concept: as many products as the image vector has entries, however many the concepts."""
    root = evidence.root
    basis = torch.eye(root.shape[1], dtype=root.dtype, device=root.device).expand(len(root), -1, -1)
    matrix = observation.readout(root, layer)
    change = observation.pull_means(root, basis, [layer])[layer] if matrix is None else matrix.expand(len(root), -1, -1)
    with full_precision(change):
        return evidence.cotangents(evidence.all()).to(change) @ change


@dataclass(frozen=True, eq=False)
class _Looks:
    """What one photo's cells are, over all looks at it, and how much of each cell's share flows to each other one."""

    cells: Float[Tensor, "channel cell"]
    flow: Float[Tensor, "cell cell"]


def _looks(
    observation: Observation, image: int, layer: str, sizes: Sequence[tuple[int, int]], how: Competition
) -> _Looks:
    stages = branch_layers(observation.model)
    looks = [cells_at(observation, image, size, {layer, *stages}, how.mirrored) for size in sizes]
    units = [
        _on_grid(F.normalize(_centred(cells, how.centred), dim=0), how.grid) for look in looks for cells in look[layer]
    ]
    middle = looks[len(looks) // 2]
    likeness = torch.stack([_likeness(middle[name][0], how.grid) for name in stages]).mean(0)
    return _Looks(torch.stack(units).mean(0).flatten(1), (likeness / how.affinity).softmax(1))


def _shared(
    looks: _Looks, weights: Float[Tensor, "pair text channel"], asked: Sequence[ConceptName], how: Competition
) -> Float[Tensor, "concept row column"]:
    """Return each asked concept's share of one photo's cells; `weights` are those of `_with_rivals(asked)`."""
    known = set(vocabulary())
    rivals = torch.tensor([word in known for word in _with_rivals(asked)], device=weights.device)
    scores = torch.stack([_standardised(weight @ looks.cells) for weight in weights]).mean(0)
    share = _shares(scores, len(asked), rivals, how.sharpness)
    for _ in range(how.steps):
        share = share @ looks.flow.T
    return share.unflatten(1, (how.grid, how.grid))


def _likeness(cells: Float[Tensor, "channel height width"], grid: int) -> Float[Tensor, "cell cell"]:
    """Return the cosine of every two cells, each less the mean cell."""
    unit = F.normalize(_centred(_on_grid(cells, grid)), dim=0).flatten(1)
    return unit.T @ unit


def _shares(
    scores: Float[Tensor, "text cell"], asked: int, rivals: Tensor, sharpness: float
) -> Float[Tensor, "concept cell"]:
    """Return the share of each of the first `asked` texts in every cell, against all words but itself."""
    sharp = sharpness * scores
    strength = (sharp - sharp.amax(0)).exp()
    all_words = strength[rivals].sum(0)
    rest = (all_words - strength[:asked] * rivals[:asked, None]).clamp_min(0)
    return strength[:asked] / (strength[:asked] + rest)


def _standardised(scores: Float[Tensor, "text cell"]) -> Float[Tensor, "text cell"]:
    return (scores - scores.mean(1, keepdim=True)) / scores.std(1, keepdim=True).clamp_min(1e-12)


def _several(language: VisionLanguage | Sequence[VisionLanguage]) -> list[VisionLanguage]:
    return list(language) if isinstance(language, (list, tuple)) else [language]  # pyright: ignore[reportReturnType]


def _centred(cells: Float[Tensor, "channel height width"], part: float = 1.0) -> Float[Tensor, "channel height width"]:
    return cells - part * cells.mean((1, 2), keepdim=True)


def _on_grid(cells: Float[Tensor, "channel height width"], grid: int) -> Float[Tensor, "channel row column"]:
    return F.interpolate(cells[None], size=(grid, grid), mode="bilinear", align_corners=False)[0]
