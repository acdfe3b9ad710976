"""Maps of concepts, measured against masks of them: the task of `ce-fam`, by what `evaluate localization` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from conceptlens.benchmark.benchmark_cases import ShownPhoto
from conceptlens.benchmark.concept_order import RANDOM_ORDER, RANDOM_ORDERS, ConceptOrders, order_settings
from conceptlens.benchmark.protocol import Measure, Protocol
from conceptlens.benchmark.published_metrics import OWN_MAP, PUBLISHED_AREA, PUBLISHED_METRICS
from conceptlens.benchmark.result_parts import MeasuredValue, PhotoRows
from conceptlens.io.errors import Failure, InputError
from conceptlens.io.fingerprint import settings_fingerprint, weights_fingerprint
from conceptlens.localization.evaluate_localization import evaluate_localization
from conceptlens.localization.methods import Method, MethodContext, build_methods, find_kind
from conceptlens.model.preprocess import preparation_settings

if TYPE_CHECKING:
    from conceptlens.concepts.vocabulary import ConceptName
    from conceptlens.data.masked_set import MaskedPhoto, MaskedSet
    from conceptlens.localization.result_rows import Row

# The smallest share of a photo that a concept's mask covers, and rows and columns at which masks are compared.
MIN_AREA, RESOLUTION = 0.01, 112


@dataclass(frozen=True, eq=False)
class ChosenPhotos:
    """Some photos of a set with masks, as a set."""

    data: MaskedSet
    rows: tuple[int, ...]

    @property
    def name(self) -> str:
        """What the set is called in results."""
        return self.data.name

    @property
    def concepts(self) -> tuple[ConceptName, ...]:
        """Every concept that the set names."""
        return self.data.concepts

    @property
    def names(self) -> list[str]:
        """What each photo is called."""
        known = self.data.names
        return [known[row] for row in self.rows]

    @property
    def excluded(self) -> Mapping[str, str]:
        """What the set leaves out, to the reason."""
        return self.data.excluded

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> MaskedPhoto:
        """Read a photo."""
        return self.data[self.rows[index]]

    def __iter__(self) -> Iterator[MaskedPhoto]:
        """Read one photo after the other; only one is held at a time."""
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True, eq=False)
class MaskMapTask:
    """What is measured: photos with masks, methods of `localization.METHODS`, and metrics of a map and a mask.

    Args:
        photos: The photos.
        context: The model, and what else methods are built from.
        methods: Names of methods.
        metrics: Names of metrics of `MAP_MASK_METRICS` and `PUBLISHED_METRICS`.
        layer: The layers that maps are taken from, for the protocol.
        branch: The fingerprint of the branch that scores concepts; empty without one.
        probe: The fingerprint of the photos on which neurons are labelled; empty without them.
        orders: The columns of concepts that are removed in the order of their contributions; `None` for none.
    """

    photos: ChosenPhotos
    context: MethodContext
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    layer: str
    branch: str = ""
    probe: str = ""
    orders: ConceptOrders | None = None

    @property
    def photo_names(self) -> Sequence[str]:
        """What the photos are called."""
        return self.photos.names

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """One protocol for each method and metric."""
        return self._protocols

    def rows(self, index: int) -> PhotoRows:
        """Measure all methods on every concept of one photo.

        Args:
            index: The photo's index.

        Raises:
            InputError: The photo cannot be read or explained.
        """
        one = ChosenPhotos(self.photos.data, (self.photos.rows[index],))
        own = [PUBLISHED_METRICS[PUBLISHED_AREA]] if PUBLISHED_AREA in self.metrics else []
        (found,) = evaluate_localization(one, self.built, MIN_AREA, RESOLUTION, self.context.seed, metrics=own)
        if isinstance(found, Failure):
            raise InputError(found.reason.removeprefix(f"{self.photo_names[index]}: "))
        hashes = {(one.method, one.measure): one.hash for one in self.protocols}
        values = tuple(
            MeasuredValue(
                hashes[row.method, Measure(name)], row.method, name, "", f"{row.concept}:{row.type}", _value(row, name)
            )
            for row in found
            if not row.oracle
            for name in self.metrics
            if _measures(row.method, name)
        )
        return PhotoRows(index, self.photo_names[index], "", (*values, *self._ordered(index, hashes)))

    def _ordered(self, index: int, hashes: Mapping[tuple[str, Measure], str]) -> Iterator[MeasuredValue]:
        """Yield the numbers of concepts that are removed in the order of their contributions."""
        if self.orders is None:
            return
        shown = self.photos[index].with_min_area(MIN_AREA)
        name, found = self.orders.values(shown, self.built)
        for (method, measure), value in found.items():
            yield MeasuredValue(hashes[method, measure], method, measure.metric, measure.fill, name, value)

    def show(self, index: int) -> ShownPhoto:
        """Make the maps of the first concept of a photo again, to look at.

        Args:
            index: The photo's index.
        """
        one = self.photos[index].with_min_area(MIN_AREA)
        found = {name: method(one.photo, one.concepts[:1]) for name, method in self.built.items()}
        maps = {name: explained.maps[0, 0].float().cpu().numpy() for name, explained in found.items()}
        signed = {name: explained.signed for name, explained in found.items()}
        box = next(iter(found.values())).source.image_info[0].box
        return ShownPhoto(one.photo, maps, signed, box)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the methods that are built, which are made again where they are needed; label neurons once."""
        if self.probe:
            _ = self.context.probed
        return {name: value for name, value in vars(self).items() if name != "built"}

    @cached_property
    def built(self) -> dict[str, Method]:
        """The methods, ready to run."""
        return build_methods(self.methods, self.context)

    @cached_property
    def _weights(self) -> str:
        return weights_fingerprint(self.context.model.module)

    @cached_property
    def _protocols(self) -> tuple[Protocol, ...]:
        whole = [
            self._protocol(method, Measure(metric))
            for method in self.methods
            for metric in self.metrics
            if _measures(method, metric)
        ]
        if self.orders is None:
            return tuple(whole)
        several = [name + end for name in self.orders.methods for end in ("", RANDOM_ORDER)]
        return (*whole, *(self._protocol(name, one) for name in several for one in self.orders.measured(name)))

    def _protocol(self, method: str, measure: Measure) -> Protocol:
        context, ordered = self.context, self.orders is not None and measure in self.orders.measures
        concepts = [f"{concept.label}:{concept.type}" for concept in context.vocabulary]
        settings = {"branch": self.branch, **({"probe": self.probe} if self.probe else {})}
        if method.endswith(RANDOM_ORDER):
            settings["orders"] = str(RANDOM_ORDERS)
        return Protocol(
            data=self.photos.name,
            data_fingerprint=settings_fingerprint([self.photos.names, concepts]),
            photos=len(self.photos),
            model=context.model.name,
            weights=self._weights,
            layer=self.layer,
            question="predicted" if ordered else "concepts",
            method=method,
            metric=measure.metric,
            fill=measure.fill,
            resolution=(0, 0) if ordered else (RESOLUTION, RESOLUTION),
            seed=context.seed,
            method_settings=settings,
            metric_settings={
                "min_area": MIN_AREA,
                "preparation": preparation_settings(context.model.preprocess, context.model.transform),
                **(order_settings(measure) if ordered else {}),
            },
        )


def _measures(method: str, metric: str) -> bool:
    """Whether a method has numbers of a metric: all have a map of every concept but those that label neurons."""
    kind = find_kind(method)
    return metric != OWN_MAP or (kind is not None and kind.probes)


def _value(row: Row, metric: str) -> float | None:
    """Return a number of a concept's map; whether the concept has one of its own is known whatever its mask is."""
    return float(row.has_own_map) if metric == OWN_MAP else row.scores[metric]
