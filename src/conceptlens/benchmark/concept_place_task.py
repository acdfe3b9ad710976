"""Concepts of bottlenecks, measured by where their maps point and by how right the answer is: the task of `loc-cbm`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from conceptlens.benchmark.benchmark_cases import ShownPhoto
from conceptlens.benchmark.concept_place_protocols import (
    ENERGY,
    SPREADING_CONTROLS,
    SPREADS,
    concept_place_protocols,
)
from conceptlens.benchmark.control_places import CELL, CENTRE, CONSTANT, ControlPlaces, one_cell
from conceptlens.benchmark.masked_heads import (
    ACCURACY,
    MASKED,
    peak_activations,
    refitted_heads,
    shared_sources,
    whole_table,
)
from conceptlens.benchmark.result_parts import MeasuredValue, PhotoRows
from conceptlens.bottleneck.evaluate.map_metrics import KEYPOINTS, MASK
from conceptlens.bottleneck.evaluate.photo_annotations import (
    attribute_indices,
    boxes_in_input,
    concept_presence,
    constant_part_peaks,
    keypoints_in_input,
)
from conceptlens.io.errors import InputError
from conceptlens.metrics.bottleneck_metrics import BOTTLENECK_METRICS, accuracy
from conceptlens.metrics.given_maps import maps_of
from conceptlens.metrics.keypoints import GRID
from conceptlens.metrics.map_mask import pointing_energy
from conceptlens.metrics.part_masks import box_masks
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from conceptlens.benchmark.protocol import Protocol
    from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet
    from conceptlens.features.cell_source import CellSource
    from conceptlens.heads.logistic_head import LinearHead
    from conceptlens.metrics.keypoints import Keypoints, MapsOrPeaks
    from conceptlens.model.backbone import Backbone
    from conceptlens.model.preprocess import Preprocess

# One number of a photo, where the others have one for each concept.
OF_PHOTO = ("keypoint_swap", ACCURACY, MASKED)
# Cells are read again in every process; heads are fitted once.
LEFT_OUT = ("sources", "controls")
UNKNOWN_VIEW = "it is not known where keypoints and boxes are in what it sees"


@dataclass(frozen=True, eq=False)
class _ReadPhoto:
    """A photo as it was read: tables by bottleneck, what controls make of the first one's cells, and its keypoints."""

    row: int
    tables: Mapping[str, BottleneckTable]
    controls: Mapping[str, Float[Tensor, "photo concept rows columns"]]
    keypoints: Keypoints

    @property
    def applies(self) -> Bool[Tensor, "1 concept"]:
        """The measured concepts that the photo shows with a visible part."""
        return self.keypoints.applies.cpu()


@dataclass(frozen=True, eq=False)
class ConceptPlaceTask:
    """What is measured: photos with keypoints, bottlenecks on one model, and controls.

    Heads are refitted to train photos once, before the first photo is measured or the task is sent to a process.

    Args:
        photos: The set, with classes, keypoints and attributes.
        chosen: Indices of the photos that are measured.
        train: The photos that the bottlenecks were fitted on; `None` leaves out what is fitted on them.
        model: The model, as it was loaded for the fits.
        bottlenecks: The bottlenecks by name; controls are read from the cells of the first.
        concepts: Labels of the concepts that are measured, which all bottlenecks have.
        metrics: Names of metrics of `concept_place_protocols.PLACE_METRICS`.
        seed: Of all that is drawn.
        cache: A folder of cells of train photos, such as the fit's; without one, the network runs on each of them.
    """

    photos: LabelledSet
    chosen: tuple[int, ...] = field(repr=False)
    train: LabelledSet | None
    model: Backbone
    bottlenecks: Mapping[str, Bottleneck] = field(repr=False)
    concepts: tuple[str, ...]
    metrics: tuple[str, ...]
    seed: int = 0
    cache: Path | None = None

    @property
    def photo_names(self) -> Sequence[str]:
        """What the photos are called."""
        return self._names

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """One protocol for each method and metric."""
        return self._protocols

    def rows(self, index: int) -> PhotoRows:
        """Measure all bottlenecks and controls on one photo.

        Args:
            index: The photo's index.

        Raises:
            InputError: The photo cannot be read.
        """
        read = self._read(self.chosen[index])
        scores = {**self._place_scores(read), **self._accuracies(read)}
        label = self.photos.classes[self.photos.labels[read.row]]
        shown = [(self.concepts[at], at) for at in read.applies[0].nonzero()[:, 0].tolist()]
        values = tuple(
            MeasuredValue(one.hash, one.method, one.metric, "", asked, scores[one.method, one.metric].of(0, at))
            for one in self.protocols
            for asked, at in ([(label, 0)] if one.metric in OF_PHOTO else shown)
        )
        return PhotoRows(index, self.photo_names[index], label, values)

    def show(self, index: int) -> ShownPhoto:
        """Make the maps of the first measured concept of a photo again, to look at.

        Args:
            index: The photo's index.
        """
        read = self._read(self.chosen[index])
        first = int(read.applies[0].int().argmax())
        found = _whole_maps(self._places(read))
        maps = {name: one[0, first].double().numpy() for name, one in found.items() if name != CELL}
        photo = self.photos[read.row]
        return ShownPhoto(photo, maps, {name: name in self.bottlenecks for name in maps}, self._view.box(photo.size))

    def __getstate__(self) -> dict[str, Any]:
        """Fit heads before the task is sent away; leave out what each process reads for itself."""
        if self.heads_wanted:
            _ = self.heads
        return {name: value for name, value in vars(self).items() if name not in LEFT_OUT}

    @property
    def heads_wanted(self) -> bool:
        """Whether heads are fitted to train photos."""
        return self.train is not None and bool({ACCURACY, MASKED} & set(self.metrics))

    @cached_property
    def sources(self) -> dict[str, CellSource]:
        """Where each bottleneck's cells come from."""
        return shared_sources(self.bottlenecks, self.model, self.photos)

    @cached_property
    def controls(self) -> ControlPlaces:
        """The controls."""
        return ControlPlaces(self.bottlenecks[self._first], self._constant, self.seed)

    @cached_property
    def heads(self) -> dict[tuple[str, str], LinearHead]:
        """Heads refitted to train photos, by method and metric; none without them."""
        if self.train is None:
            return {}
        sources = shared_sources(self.bottlenecks, self.model, self.train, self.cache)
        return refitted_heads(self.bottlenecks, sources, self.controls, self.seed)

    @property
    def _first(self) -> str:
        return next(iter(self.bottlenecks))

    @property
    def _view(self) -> Preprocess:
        """How photos enter the model; every bottleneck sees the same part of them."""
        return self.sources[self._first].model.known_preprocess(UNKNOWN_VIEW)

    def _read(self, row: int) -> _ReadPhoto:
        """Read a photo by its index in the set."""
        batches = {source: next(source.batches([row]), None) for source in dict.fromkeys(self.sources.values())}
        tables: dict[str, BottleneckTable] = {}
        controls: dict[str, Tensor] = {}
        for name, one in self.bottlenecks.items():
            batch = batches[self.sources[name]]
            if batch is None:
                raise InputError(self.sources[name].failures[row].reason)
            tables[name] = whole_table(one, self.photos, batch)
            if name == self._first:
                controls = self.controls.maps(batch)
        own, at = self.bottlenecks[self._first], self._columns[self._first]
        present = concept_presence(own, self.photos, attribute_indices(own, self.photos), tables[self._first])[:, at]
        return _ReadPhoto(row, tables, controls, keypoints_in_input(own, self._view, self.photos, [row], at, present))

    def _places(self, read: _ReadPhoto) -> dict[str, MapsOrPeaks]:
        """Return where each method says that the measured concepts are."""
        found: dict[str, MapsOrPeaks] = {
            name: table.maps[:, self._columns[name]] for name, table in read.tables.items()
        }
        return {**found, **self.controls.places(read.controls, self._columns[self._first], read.keypoints)}

    def _place_scores(self, read: _ReadPhoto) -> dict[tuple[str, str], Score]:
        places = self._places(read)
        found = {
            (method, metric): KEYPOINTS[metric](where, read.keypoints)
            for method, where in places.items()
            for metric in self.metrics
            if metric in KEYPOINTS
        }
        found |= {
            (name, metric): BOTTLENECK_METRICS[metric].compute(maps_of(places[name]), present=read.applies)
            for metric in SPREADS
            for name in (*self.bottlenecks, *SPREADING_CONTROLS)
            if metric in self.metrics
        }
        if ENERGY in self.metrics:
            masks = box_masks(boxes_in_input(self._view, self.photos, [read.row]), MASK)[:, None]
            found |= {(name, ENERGY): _energy(one, masks, read.applies) for name, one in _whole_maps(places).items()}
        return found

    def _accuracies(self, read: _ReadPhoto) -> dict[tuple[str, str], Score]:
        found = {}
        for name, table in read.tables.items():
            found[name, ACCURACY] = accuracy(table.logits, table.classes)
            if self.heads_wanted:
                places = read.controls if name == self._first else {}
                for key, active in peak_activations(name, table.maps, places).items():
                    found[key] = accuracy(self.heads[key](active), table.classes)
        return found

    @cached_property
    def _columns(self) -> dict[str, list[int]]:
        """The indices of the measured concepts in every bottleneck."""
        return {name: [one.concept_index(label) for label in self.concepts] for name, one in self.bottlenecks.items()}

    @cached_property
    def _constant(self) -> Float[Tensor, "concept 2"] | None:
        own = self.bottlenecks[self._first]
        return constant_part_peaks(own, self.sources[self._first], self.train, range(len(own.labels)))[0]

    @cached_property
    def _names(self) -> tuple[str, ...]:
        known = self.photos.names
        return tuple(known[row] for row in self.chosen)

    @cached_property
    def _protocols(self) -> tuple[Protocol, ...]:
        return concept_place_protocols(
            self.photos, self.chosen, self.train, self.model, self.bottlenecks, self.concepts, self.metrics, self.seed
        )


def _energy(
    maps: Float[Tensor, "1 concept rows columns"],
    masks: Bool[Tensor, "1 1 rows columns"],
    applies: Bool[Tensor, "1 concept"],
) -> Score:
    """Return the share of each map's energy inside the box, for the concepts that the photo shows."""
    some = applies[0]
    inside = pointing_energy(maps[:, some], masks.expand(-1, int(some.sum()), -1, -1))
    values = torch.zeros(applies.shape, dtype=inside.values.dtype)
    values[:, some] = inside.values
    return Score(values, applies)


def _whole_maps(places: Mapping[str, MapsOrPeaks]) -> dict[str, Float[Tensor, "photo concept rows columns"]]:
    """Return maps of all methods: one cell where there is a peak alone, a flat map for a random cell."""
    found = {name: maps_of(where) for name, where in places.items()}
    cells = {name: one_cell(found[name][0], GRID) for name in (CENTRE, CONSTANT) if name in found}
    return {**found, **cells, CELL: torch.ones_like(found[CELL])}
