"""Do contributions say which concepts count? Regions and channels of a photo's concepts, removed in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from conceptlens.benchmark.protocol import Measure
from conceptlens.cams.image_scoring import scored_cells, scored_images
from conceptlens.cams.targets import Probability
from conceptlens.concept_regions.channel_masking import STEPS, masking_contributions
from conceptlens.io.errors import InputError
from conceptlens.localization.methods import Method, MethodContext, build_methods
from conceptlens.metrics.concept_removal import LAYER_MEAN, concept_deletion, concept_insertion
from conceptlens.metrics.removal_order import enlarged
from conceptlens.statistics.random_seed import seeded_generator
from conceptlens.statistics.score import Metric

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from conceptlens.data.masked_set import MaskedPhoto
    from conceptlens.model.observation import Observation
    from conceptlens.record import Explanation
    from conceptlens.statistics.score import Score

# A region holds the pixels that reach this share of the map's highest value.
REGION_SHARE = 0.5
# Orders of a photo's concepts that are drawn for the control, which is their mean.
RANDOM_ORDERS = 4
RANDOM_ORDER = "_random_order"
# Methods whose concepts have a contribution, and those of them whose concepts have channels.
WITH_CONTRIBUTIONS = ("ce_fam", "competing", "fine", "per_cell")
WITH_CHANNELS = ("ce_fam", "per_cell")
REGIONS, CHANNELS = ("concept_deletion", "concept_insertion"), ("channel_deletion", "channel_insertion")
# A channel's own mean changes nothing where the network reads the layer's cells through their mean alone.
CHANNEL_FILL = LAYER_MEAN
_NEEDS, _SOURCE = ("concept places", "contributions", "probability"), "this package, after RISE and CE-FAM"
_CHANCE = "that of a random order"
# Called as `concept_deletion` and `concept_insertion` are, with channels in the place of regions.
CHANNEL_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("channel_deletion", "deletion of concepts' channels", concept_deletion, False, 0, 1, _CHANCE, _SOURCE,
               _NEEDS),
        Metric("channel_insertion", "insertion of concepts' channels", concept_insertion, True, 0, 1, _CHANCE, _SOURCE,
               _NEEDS),
    )
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class ConceptOrder:
    """What one method says of a photo's concepts: where they are, what they are made of, and how much they count.

    Attributes:
        regions: The pixels of each concept.
        contributions: How much each concept counts.
        channels: The channels of each concept in `layer`; `None` where a method has none.
        channel_contributions: How much each counts by its channels in `layer`.
        layer: The layer of the channels.
    """

    regions: Bool[Tensor, "1 concept rows columns"]
    contributions: Float[Tensor, "1 concept"]
    channels: Bool[Tensor, "1 concept channel"] | None = None
    channel_contributions: Float[Tensor, "1 concept"] | None = None
    layer: str = ""


@dataclass(frozen=True, eq=False)
class ConceptOrders:
    """The columns of concepts that are removed or put in by falling contribution to the predicted class.

    Args:
        context: What the methods are built from.
        methods: Names out of `WITH_CONTRIBUTIONS`.
        measures: Metrics of `REGIONS` and `CHANNELS`, each with a fill.
    """

    context: MethodContext
    methods: tuple[str, ...]
    measures: tuple[Measure, ...]

    def measured(self, method: str) -> tuple[Measure, ...]:
        """Return the columns that a method has numbers in.

        Args:
            method: Its name, or that of its control.
        """
        own = method.removesuffix(RANDOM_ORDER)
        if own not in self.methods:
            return ()
        return tuple(one for one in self.measures if one.metric in REGIONS or own in WITH_CHANNELS)

    def values(
        self, one: MaskedPhoto, built: Mapping[str, Method]
    ) -> tuple[str, dict[tuple[str, Measure], float | None]]:
        """Return the predicted class of a photo, and the value of every method and its control in every column.

        Args:
            one: The photo, with the concepts that it shows.
            built: The methods, ready to run.

        Raises:
            InputError: The model has no probabilities of classes.
        """
        model, translator = self.context.model, self.context.translator
        seen = model.observe(one.photo, None if translator is None else translator.layers)
        if seen.class_scores is None:
            raise InputError(f"{model.name} gives no scores of classes, to which concepts could contribute")
        target = int(seen.logits.argmax(1)[0])
        found: dict[tuple[str, Measure], float | None] = {}
        ce_fam = build_methods(["ce_fam"], self.context)["ce_fam"] if "ce_fam" not in built else built["ce_fam"]
        for name in self.methods:
            order = _order(name, seen, target, one, built[name], ce_fam) if len(one.concepts) > 1 else None
            for measure in self.measured(name):
                given, drawn = (None, None) if order is None else self._scores(seen, target, order, measure)
                found[name, measure] = given
                found[name + RANDOM_ORDER, measure] = drawn
        return model.class_name(target), found

    def _scores(
        self, seen: Observation, target: int, order: ConceptOrder, measure: Measure
    ) -> tuple[float | None, float | None]:
        """Return the value in the order of contributions, and the mean over drawn orders."""
        seed = self.context.seed
        compute = concept_deletion if measure.metric.endswith("deletion") else concept_insertion
        if measure.metric in REGIONS:
            places, counts = order.regions, order.contributions
            scored = scored_images(seen, Probability(target))
        elif order.channels is None or order.channel_contributions is None:
            return None, None
        else:
            places, counts = order.channels, order.channel_contributions
            scored = scored_cells(seen, Probability(target), order.layer)

        def score(contributions: Tensor) -> Score:
            return compute(places, contributions, scored, measure.fill, seed)

        given = score(counts).of(0, 0)
        if given is None:
            return None, None
        generator = seeded_generator(seed)
        drawn = [score(torch.rand(counts.shape, generator=generator)).of(0, 0) for _ in range(RANDOM_ORDERS)]
        return given, sum(value for value in drawn if value is not None) / RANDOM_ORDERS


def order_settings(measure: Measure) -> dict[str, object]:
    """Return what a protocol says of a column: what a concept's place is, and which question is asked.

    Args:
        measure: A metric of `REGIONS` or `CHANNELS`.
    """
    place = {"region": REGION_SHARE} if measure.metric in REGIONS else {"channels": STEPS}
    return {**place, "asks": ["pointwise", "class"], "concepts": "shown by the photo's masks"}


def _order(
    name: str,
    seen: Observation,
    target: int,
    one: MaskedPhoto,
    method: Method,
    ce_fam: Method,
) -> ConceptOrder:
    """Return what a method says of the concepts of a photo; competing regions have CE-FAM's contributions."""
    explained = method(one.photo, one.concepts)
    counted = explained if name in WITH_CHANNELS else ce_fam(one.photo, one.concepts)
    parts = counted.components or (counted,)
    classes = torch.tensor([target], device=seen.images.device)
    regions, contributions = _regions(explained, seen), _contributions(seen, counted, parts, classes)
    last = parts[-1]
    if name not in WITH_CHANNELS or last.weights is None:
        return ConceptOrder(regions, contributions)
    layer, weights = last.source.layer, last.weights[..., 0, 0]
    by_channels = _masked(seen, weights, classes, layer)
    return ConceptOrder(regions, contributions, _strongest(seen, weights, layer), by_channels, layer)


def _regions(explained: Explanation, seen: Observation) -> Bool[Tensor, "1 concept rows columns"]:
    """Return the pixels at which each map reaches a share of its highest value; none where it is nowhere positive."""
    rows, columns = seen.images.shape[2:]
    large = enlarged(explained.maps[0], (rows, columns))
    highest = large.amax((1, 2), keepdim=True)
    return ((large >= REGION_SHARE * highest) & (highest > 0))[None]


def _contributions(
    seen: Observation, explained: Explanation, parts: Sequence[Explanation], classes: Tensor
) -> Float[Tensor, "1 concept"]:
    """Return CE-FAM's contribution of each concept, in the layer that its region is of."""
    found = torch.zeros(1, explained.maps.shape[1], device=seen.images.device)
    for part in parts:
        if part.weights is None:
            raise InputError(f"{part.source.method} has no weights of channels, so its concepts have no contributions")
        layer = part.source.layer
        own = [not explained.layers or name == layer for name in (explained.layers or ((layer,) * found.shape[1],))[0]]
        selected = torch.tensor([own], device=found.device)
        found = torch.where(selected, _masked(seen, part.weights[..., 0, 0], classes, layer).to(found), found)
    return found


def _masked(
    seen: Observation, weights: Float[Tensor, "1 concept channel"], classes: Tensor, layer: str
) -> Float[Tensor, "1 concept"]:
    return masking_contributions(seen, weights.to(seen.images.device), classes, layer=layer)


def _strongest(
    seen: Observation, weights: Float[Tensor, "1 concept channel"], layer: str
) -> Bool[Tensor, "1 concept channel"]:
    """Return the channels that CE-FAM masks for each concept: the highest `beta_k mean(A_k)`."""
    values = weights.to(seen.images.device) * seen.feature(layer).detach().mean((2, 3))[:, None]
    chosen = values.topk(min(STEPS, values.shape[2]), dim=2).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter(2, chosen, True)
