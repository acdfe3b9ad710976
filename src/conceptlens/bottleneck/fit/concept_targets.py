"""Which concepts a bottleneck gets, and how much of each every training photo shows: by labels, by a pair, or both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlens.bottleneck.concept_writing.concept_filter import (
    FILTER_LIMITS,
    PRESENCE_CUTOFFS,
    by_class_name,
    filter_concepts,
)
from conceptlens.bottleneck.fit.free_memory import check_memory
from conceptlens.bottleneck.map_evidence import CLASSES, DETECTIONS, PHOTOS, VLM
from conceptlens.concept_regions.fit.pair_shards import image_vectors
from conceptlens.concept_regions.translator import Teacher
from conceptlens.concepts.concept_set import (
    BottleneckConcept,
    ConceptSet,
    Dropped,
    attribute_concepts,
    collect,
    read_concept_set,
)
from conceptlens.concepts.vocabulary import everyday_words
from conceptlens.data.target_table import are_detections, read_target_table
from conceptlens.io.errors import InputError, near
from conceptlens.io.progress import progress
from conceptlens.runs.local_engine import batches_of, read_ahead

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.data.labelled_set import LabelledSet
    from conceptlens.model.backbone import Backbone

SOURCES = ("auto", "labels", "photos", "vlm", "both")
BATCH_PHOTOS = 32
MIN_SHARE = 0.1  # a class attribute is a concept where some class shows it in a tenth of its photos
QUANTILES = (0.01, 0.99)  # a pair's cosines become shares between these quantiles of the train photos


@dataclass(frozen=True, eq=False)
class Targets:
    """Concepts, and `values[photo concept]`, 0 to 1: how much each train photo shows of each.

    `by`: their source. `learned_from`: that of each concept, a key of `map_evidence.LEARNED_FROM`.
    """

    concepts: ConceptSet
    values: Float[Tensor, "photo concept"]
    by: str
    learned_from: tuple[str, ...]

    def keep(self, kept: Sequence[int], dropped: Sequence[Dropped]) -> Targets:
        """Return some of the concepts, and why others are left out."""
        learned_from = tuple(self.learned_from[index] for index in kept)
        return Targets(self.concepts.keep(kept, dropped), self.values[:, list(kept)], self.by, learned_from)


def build_concept_targets(
    photos: LabelledSet,
    concepts: str | Path | ConceptSet | Iterable[str | BottleneckConcept],
    source: str,
    vlm: Backbone | None,
    vectors: Float[Tensor, "photo dimension"] | None,
) -> Targets:
    """Return the concepts and targets of a train set.

    A photo without a target for a concept gets the mean of its class, else of all photos. Concepts without targets, or
    with the same target for all photos, are dropped with a reason.

    Args:
        photos: The train photos.
        concepts: A set, labels, a file (`read_concept_set`), or `auto`: the set's class attributes, else the words
            of the vocabulary that the vision-language model sees in the photos and that are no class names.
        source: `labels` are class attributes; `photos` annotations of single photos; `vlm` cosines of photos and
            labels, scaled to 0 to 1; `both` labels where there are any and `vlm` for the rest; `auto` is `labels` where
            all concepts have them, else `both`; a file is a table (`read_concept_table`) or a detector's boxes
            (`read_detections`).
        vlm: The vision-language model.
        vectors: Its image vectors of the photos, `[photo dimension]` (`encode_photos`).

    Returns:
        The concepts that are left, their targets `[photo concept]`, and where they come from.

    Raises:
        InputError: Names or files are unknown, or no concept is left.
    """
    table = _table(photos, source)
    named = _concepts(photos, concepts, table, vlm, vectors)
    check_memory(len(photos), len(named))
    values = torch.full((len(photos), len(named)), torch.nan)
    if source != "vlm":
        values = _filled(_from_photos(named, photos) if source == "photos" else _labelled(named, photos, table), photos)
    missing = values.isnan().all(0)
    needed = source in ("both", "vlm") or (source == "auto" and (vlm is not None or bool(missing.all())))
    imitated = missing if needed else torch.zeros_like(missing)
    if bool(imitated.any()):
        values[:, imitated] = _from_vlm([named.concepts[i] for i in imitated.nonzero()[:, 0].tolist()], vlm, vectors)
    by = "labels" if not bool(imitated.any()) else "vlm" if bool(imitated.all()) else "both"
    single = DETECTIONS if table is not None and are_detections(source) else PHOTOS
    return _without_constant(Targets(named, values, by, _learned_from(values, photos, imitated, single)))


@torch.no_grad()
def encode_photos(vlm: Backbone, photos: LabelledSet, indices: Sequence[int]) -> Float[Tensor, "photo dimension"]:
    """Return a vision-language model's image vectors, not normalised; NaN for a photo that cannot be read.

    Raises `InputError` where none of them can be read.
    """
    rows, found, reasons = [], [], []

    def read(batch: range) -> dict[int, Tensor | str]:
        return {row: _input_of(vlm, photos, indices[row]) for row in batch}

    batches = read_ahead(read, batches_of(len(indices), BATCH_PHOTOS))
    for batch in progress(batches, len(indices), "the vision-language model on photos", BATCH_PHOTOS):
        inputs = {row: one for row, one in batch.items() if isinstance(one, Tensor)}
        reasons += [one for one in batch.values() if isinstance(one, str)]
        rows += inputs
        if inputs:
            found.append(image_vectors(vlm, torch.stack([*inputs.values()])))
    if not found:
        raise InputError(
            f"no photo of {photos.name} could be read; the first: {reasons[0] if reasons else 'none given'}"
        )
    vectors = torch.cat(found)
    whole = torch.full((len(indices), vectors.shape[1]), torch.nan)
    whole[rows] = vectors
    return whole


def _input_of(vlm: Backbone, photos: LabelledSet, index: int) -> Tensor | str:
    """Return a photo as a model takes it, or why it cannot be read."""
    try:
        return vlm.read_photo(photos[index])
    except InputError as error:
        return str(error)


def _table(photos: LabelledSet, source: str) -> tuple[tuple[str, ...], Tensor] | None:
    """Return labels and `[photo concept]` of a table of one's own."""
    if source in SOURCES:
        return None
    if not Path(source).exists():
        raise InputError(
            f"no targets '{source}'; {near(source, SOURCES, 'there are')}, or the file of a table with a "
            "row for each class or photo and a column for each concept, or a detector's boxes"
        )
    read = read_target_table(source, photos.classes, photos.names)
    values = torch.tensor(read.targets, dtype=torch.float32)
    return tuple(read.labels), values[torch.tensor(photos.labels)] if read.of == "class" else values


def _concepts(
    photos: LabelledSet,
    given: str | Path | ConceptSet | Iterable[str | BottleneckConcept],
    table: tuple[tuple[str, ...], Tensor] | None,
    vlm: Backbone | None,
    vectors: Tensor | None,
) -> ConceptSet:
    if isinstance(given, ConceptSet):
        return given
    if not isinstance(given, str | Path):
        return collect(given, "the given concepts")
    if str(given) != "auto":
        return read_concept_set(given)
    known = photos.annotation.attributes if photos.annotation else None
    if table is not None:
        named = collect(table[0], "the table of targets")
        bare = by_class_name(named.labels, photos.classes)  # detectors are asked for these too
        return named.keep(bare.kept, bare.dropped)
    if known is not None:
        return attribute_concepts(known.concepts, known.shares, f"the class attributes of {photos.name}", MIN_SHARE)
    if vlm is None or vectors is None:
        raise InputError(
            f"{photos.name} has no attributes, so concepts cannot be chosen from labels alone; name concepts, or give "
            "a vision-language model (--vlm)"
        )
    words = collect([word.label for word in everyday_words()], "the vocabulary")
    cosines = photo_cosines(words.concepts, vlm, vectors)
    known = cosines[~cosines.isnan().any(1)].double()
    limits = replace(FILTER_LIMITS["minilm"], presence=PRESENCE_CUTOFFS["standardised"])
    return filter_concepts(words, photos.classes, limits, (known - known.mean()) / known.std(correction=0))


def _labelled(named: ConceptSet, photos: LabelledSet, table: tuple[tuple[str, ...], Tensor] | None) -> Tensor:
    """Return `[photo concept]` by labels, NaN where these are missing."""
    values = torch.full((len(photos), len(named)), torch.nan)
    labels = torch.tensor(photos.labels)
    if named.targets is not None and table is None:
        if len(named.targets) != len(photos.classes):
            raise InputError(
                f"the concepts' targets have {len(named.targets)} classes, and {photos.name} has "
                f"{len(photos.classes)}; give one row for each class"
            )
        return torch.tensor(named.targets, dtype=torch.float32)[labels]
    known = photos.annotation.attributes if photos.annotation else None
    columns: dict[str, Tensor] = {}
    if table is not None:
        columns = {label.casefold(): table[1][:, index] for index, label in enumerate(table[0])}
    elif known is not None:
        shares = torch.tensor(known.shares, dtype=torch.float32)[labels]
        columns = {one.label.casefold(): shares[:, index] for index, one in enumerate(known.concepts)}
        columns |= {name.casefold(): shares[:, index] for index, name in enumerate(known.names)}
    for index, label in enumerate(named.labels):
        if label.casefold() in columns:
            values[:, index] = columns[label.casefold()]
    return values


def _from_photos(named: ConceptSet, photos: LabelledSet) -> Tensor:
    """Return `[photo concept]`, 1 or 0, of the attributes that annotators saw in single photos; NaN where hidden."""
    annotation = photos.annotation
    known, attributes = (annotation.photos, annotation.attributes) if annotation else (None, None)
    if known is None:
        raise InputError(f"{photos.name} has no attributes of single photos; give --targets labels, or a table")
    columns = {name.casefold(): index for index, name in enumerate(known.names)}
    if attributes is not None:
        names = zip(attributes.concepts, attributes.names, strict=True)
        columns |= {one.label.casefold(): columns[name.casefold()] for one, name in names if name.casefold() in columns}
    values = torch.full((len(photos), len(named)), torch.nan)
    for index, label in enumerate(named.labels):
        column = columns.get(label.casefold())
        if column is not None:
            present = torch.tensor(known.present[:, column]).float()
            values[:, index] = torch.where(torch.tensor(known.visible[:, column]), present, torch.nan)
    return values


def _filled(values: Tensor, photos: LabelledSet) -> Tensor:
    """Fill a missing target with the mean of the photo's class, or else of all photos; the rest stays NaN."""
    if not bool(values.isnan().any()):
        return values
    labels = torch.tensor(photos.labels)
    filled = values.clone()
    for number in labels.unique().tolist():
        rows = labels == number
        filled[rows] = torch.where(values[rows].isnan(), values[rows].nanmean(0), values[rows])
    return torch.where(filled.isnan(), values.nanmean(0), filled)


def _from_vlm(concepts: Sequence[BottleneckConcept], vlm: Backbone | None, vectors: Tensor | None) -> Tensor:
    """Return the pair's cosines between two quantiles as shares."""
    if vlm is None or vectors is None:
        raise InputError(
            f"no target says how much the photos show of '{concepts[0].label}'"
            + (f" and {len(concepts) - 1} more" if len(concepts) > 1 else "")
            + "; give a vision-language model (--vlm), or a table of targets (--targets FILE)"
        )
    cosines = photo_cosines(concepts, vlm, vectors)
    known = cosines[~cosines.isnan().any(1)]
    low, high = (torch.tensor(np.quantile(known.numpy(), share, axis=0)).float() for share in QUANTILES)
    return ((cosines - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).nan_to_num(0.0)


def photo_cosines(
    concepts: Sequence[BottleneckConcept], vlm: Backbone, vectors: Tensor
) -> Float[Tensor, "photo concept"]:
    """Return the cosines of photos and bare labels, as label-free CBM (ICLR 2023) asks."""
    texts = vlm.language.encode_text([concept.label for concept in concepts]).float().cpu()
    unit = torch.nn.functional.normalize
    return unit(vectors.float(), dim=1) @ unit(texts, dim=1).T


def _learned_from(values: Tensor, photos: LabelledSet, imitated: Tensor, single: str) -> tuple[str, ...]:
    """Say where each concept's targets come from: of classes alone, where no two photos of a class differ.

    A table of photos says no more than its classes do if it has the same row for all photos of each.
    """
    labels, differs = torch.tensor(photos.labels), torch.zeros(values.shape[1], dtype=torch.bool)
    for number in labels.unique().tolist():
        own = values[labels == number]
        differs |= own.amax(0) > own.amin(0)
    kinds = [single if one else CLASSES for one in differs.tolist()]
    return tuple(VLM if other else kind for kind, other in zip(kinds, imitated.tolist(), strict=True))


def _without_constant(targets: Targets) -> Targets:
    """Leave out concepts without targets, or with the same target for every photo, each with its reason."""
    kept, dropped = [], []
    for index, label in enumerate(targets.concepts.labels):
        lowest, highest = targets.values[:, index].aminmax()
        if bool(lowest < highest):
            kept.append(index)
        elif bool(lowest.isnan()):
            dropped.append(Dropped(label, "targets", None, None, "no target says how much the photos show of it"))
        elif float(highest) == 0:
            dropped.append(Dropped(label, "targets", 0.0, None, "no train photo shows it"))
        else:
            reason = f"every train photo shows as much of it ({float(highest):.2g}): it tells no class apart"
            dropped.append(Dropped(label, "targets", float(highest), None, reason))
    return targets.keep(kept, dropped)


def vlm_fingerprint(vlm: Backbone) -> str:
    """Return a pair's name and fingerprint, for the record."""
    return f"{vlm.name} {Teacher.of(vlm).identity}"
