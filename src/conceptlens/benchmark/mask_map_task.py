"""Maps of concepts, measured against masks of them: the task of `ce-fam`, by what `evaluate localization` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from conceptlens.benchmark.benchmark_cases import ShownPhoto
from conceptlens.benchmark.protocol import Protocol
from conceptlens.benchmark.result_parts import MeasuredValue, PhotoRows
from conceptlens.io.errors import Failure, InputError
from conceptlens.io.fingerprint import settings_fingerprint, weights_fingerprint
from conceptlens.localization.evaluate_localization import evaluate_localization
from conceptlens.localization.methods import Method, MethodContext, build_methods
from conceptlens.model.preprocess import preparation_settings

if TYPE_CHECKING:
    from conceptlens.concepts.vocabulary import ConceptName
    from conceptlens.data.masked_set import MaskedPhoto, MaskedSet

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
        metrics: Names of metrics of `MAP_MASK_METRICS`.
        layer: The layers that maps are taken from, for the protocol.
        branch: The fingerprint of the branch that scores concepts; empty without one.
    """

    photos: ChosenPhotos
    context: MethodContext
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    layer: str
    branch: str = ""

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
        (found,) = evaluate_localization(one, self.built, MIN_AREA, RESOLUTION, self.context.seed)
        if isinstance(found, Failure):
            raise InputError(found.reason.removeprefix(f"{self.photo_names[index]}: "))
        hashes = {(one.method, one.metric): one.hash for one in self.protocols}
        values = tuple(
            MeasuredValue(hashes[row.method, name], row.method, name, "", f"{row.concept}:{row.type}", row.scores[name])
            for row in found
            if not row.oracle
            for name in self.metrics
        )
        return PhotoRows(index, self.photo_names[index], "", values)

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
        """Leave out the methods that are built, which are made again where they are needed."""
        return {name: value for name, value in vars(self).items() if name != "built"}

    @cached_property
    def built(self) -> dict[str, Method]:
        """The methods, ready to run."""
        return build_methods(self.methods, self.context)

    @cached_property
    def _protocols(self) -> tuple[Protocol, ...]:
        context = self.context
        weights = weights_fingerprint(context.model.module)
        concepts = [f"{concept.label}:{concept.type}" for concept in context.vocabulary]
        marks = settings_fingerprint([self.photos.names, concepts])
        return tuple(
            Protocol(
                data=self.photos.name,
                data_fingerprint=marks,
                photos=len(self.photos),
                model=context.model.name,
                weights=weights,
                layer=self.layer,
                question="concepts",
                method=method,
                metric=metric,
                resolution=(RESOLUTION, RESOLUTION),
                seed=context.seed,
                method_settings={"branch": self.branch},
                metric_settings={
                    "min_area": MIN_AREA,
                    "preparation": preparation_settings(context.model.preprocess, context.model.transform),
                },
            )
            for method in self.methods
            for metric in self.metrics
        )
