"""The methods that an evaluation compares, by name: each gives a map for every concept in a photo.

Beside those of `METHODS`, every rule is one, with any of `TARGETS`: `layer_cam:concept`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from conceptlens.cams.class_activation import project
from conceptlens.cams.rules import RULES, grad_cam
from conceptlens.concept_regions.ce_fam import ce_fam, layer_regions
from conceptlens.concept_regions.competing_explanation import pairs_of
from conceptlens.concept_regions.competition import COARSE, FINE, Competition, compete
from conceptlens.concept_regions.concept_scores import ConceptScores, score_concepts
from conceptlens.concept_regions.neurons import (
    NeuronLabels,
    ProbedNeurons,
    fit_clip_dissect,
    fit_www,
    neuron_region,
    probe_neurons,
)
from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.io.errors import InputError, near
from conceptlens.io.images import fingerprint
from conceptlens.localization.baseline_maps import centre, edges, random_maps
from conceptlens.localization.cam_methods import TARGETS, Method, cam_method
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.concept_regions.translator import Translator
    from conceptlens.model.backbone import Backbone
    from conceptlens.model.image_batch import Photo
    from conceptlens.model.observation import Observation

# How many neurons or random maps the oracle chooses from with the mask; CE-FAM's evaluation takes 4.
N_CANDIDATES = 4


@dataclass(frozen=True, eq=False)
class MethodContext:
    """What methods are built from.

    Attributes:
        model: The model to explain.
        vocabulary: Every concept of the set, whether or not a photo shows it.
        translator: A trained branch; without one, CE-FAM takes the model's own encoders and its last layer.
        probe: Photos to find neuron labels on, read once and only if a method needs them.
        vlm: Another model whose encoders score the probe photos; by default the model itself.
        seed: Draws the random maps.
    """

    model: Backbone
    vocabulary: tuple[ConceptName, ...]
    translator: Translator | None = None
    probe: Iterable[Photo] = ()
    vlm: Backbone | None = None
    seed: int = 0

    @cached_property
    def probed(self) -> ProbedNeurons:
        """What the model and the pair make of the probe photos."""
        return probe_neurons(self.model, self.probe, vlm=self.vlm)


@dataclass(frozen=True)
class MethodKind:
    """One entry of `METHODS`.

    Attributes:
        name: The name on the command line.
        title: The name in tables.
        about: What the method does, in one line.
        build: Makes the method from its context.
        probes: Whether it needs probe photos.
    """

    name: str
    title: str
    about: str
    build: Callable[[MethodContext], Method]
    probes: bool = False


def find_kind(name: str) -> MethodKind | None:
    """Return an entry of `METHODS`, or that of a rule, `RULE` or `RULE:TARGET`; `None` for another name.

    Args:
        name: The name; a rule without a target explains the predicted class.
    """
    if name in METHODS:
        return METHODS[name]
    rule, _, target = (name, "", "predicted") if name in RULES else name.rpartition(":")
    if rule not in RULES or target not in TARGETS:
        return None
    kind, title = TARGETS[target], RULES[rule].title or rule
    return MethodKind(
        name, title + kind.title, kind.about, lambda context: cam_method(context.model, kind.name, RULES[rule])
    )


def method_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of methods as results have them: without blanks, repetitions, and targets that go without saying.

    Args:
        names: Names of `METHODS`; `RULE` or `RULE:TARGET` of `RULES` and `TARGETS`.

    Raises:
        InputError: A name is unknown, or none is given.
    """
    chosen = tuple(dict.fromkeys(_shortest(name.strip()) for name in names if name.strip()))
    if not chosen:
        raise InputError(f"no method is named; methods: {', '.join(METHODS)}; {_rules_and_targets()}")
    for name in chosen:
        if find_kind(name) is None:
            raise InputError(f"no method '{name}'; {near(name, METHODS, 'methods')}; {_rules_and_targets()}")
    return chosen


def _shortest(name: str) -> str:
    rule = name.removesuffix(":predicted")
    return rule if rule in RULES and rule not in METHODS else name


def _rules_and_targets() -> str:
    return f"or RULE:TARGET, with the rules {', '.join(RULES)} and the targets {', '.join(TARGETS)}"


def build_methods(names: Iterable[str], context: MethodContext) -> dict[str, Method]:
    """Return methods by name, ready to run.

    Args:
        names: Names of `METHODS`, and `RULE` or `RULE:TARGET` for any rule of `cl.RULES` (see `TARGETS`).
        context: The model, the concepts and what else methods are built from.

    Returns:
        The methods by name, for `evaluate_localization`.

    Raises:
        InputError: A name is unknown, or none is given.
    """
    kinds = {name: find_kind(name) for name in method_names(names)}
    return {name: kind.build(context) for name, kind in kinds.items() if kind is not None}


def precomputed(maps: Explanation) -> Method:
    """Return a method that looks maps up, which were computed before or by another library.

    Args:
        maps: Maps of the photos of a set. Photos are found by their fingerprint, so `maps.source.image_info` must hold
            those of the photos (`Explanation.from_maps` with `images`); concepts are found by their label.

    Returns:
        A method for `evaluate_localization`. It raises `InputError` for a photo or a concept without a map, such as a
        wrong concept: give maps of all concepts of the set for every photo.
    """
    images = {info.fingerprint: i for i, info in enumerate(maps.source.image_info) if info.fingerprint}

    def method(photo: Image.Image, concepts: Sequence[ConceptName]) -> Explanation:
        image = images.get(fingerprint(photo))
        if image is None:
            raise InputError("there is no map of this photo; give the photos of the set as the images of the maps")
        own = maps.of(image)
        indices = [own.question_index(concept.label) for concept in concepts]
        return Explanation(
            maps=own.maps[:, indices],
            weights=None,
            scores=own.scores[:, indices],
            labels=(tuple(concept.label for concept in concepts),),
            source=own.source,
            activation=own.activation,
        )

    return method


def _ce_fam(context: MethodContext) -> Method:
    translator = context.translator
    if translator is None:
        return lambda photo, concepts: _last_layer(context.model.observe(photo), concepts)
    translator.check(context.model)

    def method(photo: Image.Image, concepts: Sequence[ConceptName]) -> Explanation:
        return ce_fam(context.model.observe(photo, translator.layers), translator, concepts, with_contributions=False)

    return method


def _last_layer(observation: Observation, concepts: Sequence[ConceptName]) -> Explanation:
    """Return CE-FAM's region of the last layer, through the model's own pair."""
    evidence = score_concepts(observation, observation.model.language, concepts)
    weights = _pulled(observation, evidence, evidence.score_gradients(evidence.all_indices()))
    return layer_regions(
        observation,
        observation.layer,
        weights,
        evidence,
        evidence.all_indices(),
        {"text": observation.model.language.name},
    )


def _pulled(
    observation: Observation, evidence: ConceptScores, cotangents: Tensor
) -> Float[Tensor, "image concept channel"]:
    """Return what directions of the image vector weigh in the last layer."""
    return grad_cam(
        observation.pull(evidence.image_vectors, cotangents, observation.layer), observation.feature()[:, None]
    )[..., 0, 0]


def _competing(competition: Competition) -> Callable[[MethodContext], Method]:
    def build(context: MethodContext) -> Method:
        layers = None if context.translator is None else context.translator.layers
        pairs = pairs_of(context.model, context.translator)
        return lambda photo, concepts: compete(
            context.model.observe(photo, layers), concepts, pairs, competition=competition
        )

    return build


def _per_cell(context: MethodContext) -> Method:
    """The concept's direction times the feature at each cell of the last layer, evidence against kept."""
    translator = context.translator
    language = translator or context.model.language
    layers = None if translator is None else translator.layers

    def method(photo: Image.Image, concepts: Sequence[ConceptName]) -> Explanation:
        observation = context.model.observe(photo, layers)
        evidence = score_concepts(observation, language, concepts)
        weights = _pulled(observation, evidence, evidence.text_vectors[None])
        found = layer_regions(
            observation,
            observation.layer,
            weights,
            evidence,
            evidence.all_indices(),
            {"text": language.name},
            "per_cell",
        )
        return replace(found, maps=project(weights[..., None, None], observation.feature()), activation="identity")

    return method


def _neurons(fit: Callable[[ProbedNeurons, Sequence[ConceptName]], NeuronLabels]) -> Callable[[MethodContext], Method]:
    """Return the builder of a method whose region is that of the neuron which fits best."""

    def build(context: MethodContext) -> Method:
        labels = fit(context.probed, context.vocabulary)
        count = min(N_CANDIDATES, labels.similarity.shape[1])

        def method(photo: Image.Image, concepts: Sequence[ConceptName]) -> Explanation:
            return neuron_region(context.model.observe(photo, labels.layer), labels, concepts, count)

        return method

    return build


def _centre(context: MethodContext) -> Method:
    return lambda photo, concepts: centre(context.model.observe(photo), concepts)


def _edges(context: MethodContext) -> Method:
    return lambda photo, concepts: edges(context.model.observe(photo), concepts)


def _random(context: MethodContext) -> Method:
    return lambda photo, concepts: random_maps(context.model.observe(photo), concepts, context.seed, N_CANDIDATES)


_TABLE = (
    MethodKind("ce_fam", "CE-FAM", "the region of the concept's score, ReLU'd, as published", _ce_fam),
    MethodKind(
        "competing",
        "competing concepts",
        "the concept competes with everyday words for every cell, as in `explain`",
        _competing(Competition()),
    ),
    MethodKind(
        "coarse",
        "competing, coarse",
        "the same at the model's own size alone, without another look",
        _competing(COARSE),
    ),
    MethodKind("fine", "competing, fine", "the same at three sizes of the photo, each mirrored too", _competing(FINE)),
    MethodKind("per_cell", "per cell", "the concept's direction times each cell of the last layer", _per_cell),
    MethodKind(
        "clip_dissect", "CLIP-Dissect", "the neuron that fits best by soft-WPMI", _neurons(fit_clip_dissect), True
    ),
    MethodKind("www", "WWW", "the neuron whose example photos fit best", _neurons(fit_www), True),
    MethodKind("centre", "centre", "a Gaussian in the middle of every photo", _centre),
    MethodKind("edges", "edges", "Sobel's edges of the photo, averaged over the layer's cells", _edges),
    MethodKind("random", "random", "random numbers on the layer's grid, new for each photo and concept", _random),
)
METHODS: dict[str, MethodKind] = {kind.name: kind for kind in _TABLE}
