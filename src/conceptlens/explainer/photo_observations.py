"""Observations of many photos, batch after batch, read ahead: of files, and of sets that say what photos show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlens.io.errors import Failure, InputError
from conceptlens.model.photo_reading import LoadedPhoto, photos_ahead, ready_photo
from conceptlens.runs.local_engine import batches_of, read_ahead

if TYPE_CHECKING:
    from conceptlens.concepts.vocabulary import ConceptName
    from conceptlens.data.masked_set import MaskedSet
    from conceptlens.model.backbone import Backbone
    from conceptlens.model.image_batch import ReadyPhoto
    from conceptlens.model.observation import Observation


def observe_photos(
    model: Backbone, photos: Sequence[Path], batch_size: int, failures: list[Failure], keep: bool = True
) -> Iterator[Observation]:
    """Yield one observation per batch of photo files.

    Args:
        model: The model.
        photos: The files.
        batch_size: Photos per forward pass.
        failures: A list to which the files are added that cannot be read.
        keep: Whether observations keep the photos, for what looks at them once more; else memory holds their inputs.

    Returns:
        An iterator of observations; files that cannot be read are left out.
    """
    for read in photos_ahead(model, photos, batch_size, keep):
        failures.extend(one for one in read if isinstance(one, Failure))
        good = [one for one in read if not isinstance(one, Failure)]
        if good:
            yield model.observe_ready(good)


@dataclass(frozen=True, eq=False)
class LabelledPhoto:
    """A photo as a model reads it, and the concepts that it shows."""

    ready: ReadyPhoto
    concepts: frozenset[ConceptName]


def observe_labelled(
    model: Backbone,
    data: MaskedSet,
    min_area: float,
    batch_size: int,
    failures: list[Failure] | None = None,
    keep: bool = True,
) -> Iterator[tuple[Observation, list[frozenset[ConceptName]]]]:
    """Yield one observation per batch of a data set with masks, and the concepts that each photo shows.

    Args:
        model: The model.
        data: Photos whose concepts have masks.
        min_area: The smallest share of a photo at which a concept is in it.
        batch_size: Photos per forward pass.
        failures: A list to which the photos are added that cannot be read; without it the first of them is an error.
        keep: Whether observations keep the photos, for what looks at them once more; else memory holds their inputs.
    """

    def read(batch: range) -> list[LabelledPhoto | Failure]:
        return [_read_labelled(model, data, index, min_area, keep) for index in batch]

    for found in read_ahead(read, batches_of(len(data), batch_size)):
        bad = [one for one in found if isinstance(one, Failure)]
        if bad and failures is None:
            raise InputError(bad[0].reason)
        failures = [] if failures is None else failures
        failures.extend(bad)
        good = [one for one in found if not isinstance(one, Failure)]
        if good:
            yield model.observe_ready([one.ready for one in good]), [one.concepts for one in good]


def _read_labelled(
    model: Backbone, data: MaskedSet, index: int, min_area: float, keep: bool
) -> LabelledPhoto | Failure:
    try:
        one = data[index].with_min_area(min_area)
        model.check_size(one.photo.size)
        return LabelledPhoto(ready_photo(model, LoadedPhoto(one.name, one.photo), keep=keep), frozenset(one.concepts))
    except InputError as error:
        return Failure(data.names[index], str(error))
