"""The numbers of a run, summed by photo: what intervals, paired differences and agreement are computed from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.benchmark.protocol import Measure, Protocol, check_one_column
from conceptlens.benchmark.result_parts import PhotoRows
from conceptlens.io.errors import Failure, InputError

if TYPE_CHECKING:
    from jaxtyping import Float

# A method, and the one that it is compared with.
Pair = tuple[str, str]


@dataclass(frozen=True, eq=False)
class PairedValues:
    """Sums of all numbers by photo, and how many they are.

    Attributes:
        methods: The methods, in the order of the middle axis.
        measures: The columns, in the order of the last axis.
        sums: Of each method's numbers.
        counts: How many numbers each sum is of; 0 where a metric does not apply.
        pairs: The methods whose differences are taken, and from which.
        difference_sums: Of first minus second, over the questions that both have a number for.
        difference_counts: How many differences each sum is of.
        photos: How many photos were measured.
        failures: Photos that failed, with their reasons.
    """

    methods: tuple[str, ...]
    measures: tuple[Measure, ...]
    sums: Float[np.ndarray, "photo method measure"]
    counts: Float[np.ndarray, "photo method measure"]
    pairs: tuple[Pair, ...]
    difference_sums: Float[np.ndarray, "photo pair measure"]
    difference_counts: Float[np.ndarray, "photo pair measure"]
    failures: tuple[Failure, ...] = ()

    @property
    def photos(self) -> int:
        """How many photos were measured."""
        return len(self.sums)

    def by_photo(self) -> Float[np.ndarray, "photo method measure"]:
        """Return the mean of each photo's numbers; NaN where it has none."""
        return np.where(self.counts > 0, self.sums / np.maximum(self.counts, 1), np.nan)


def collect_values(
    photos: Iterable[PhotoRows], protocols: Mapping[str, Protocol], methods: Sequence[str], pairs: Sequence[Pair]
) -> PairedValues:
    """Sum the numbers of a run by photo, one photo in memory at a time.

    Args:
        photos: What `read_photos` yields.
        protocols: The protocols of the rows by their hash, as `read_protocols` returns them.
        methods: The methods that are taken; numbers of others are left out.
        pairs: The methods whose differences are wanted, and from which.

    Returns:
        The sums of all photos that did not fail.

    Raises:
        InputError: A row names a protocol that is not there, numbers of one column were measured by different
            protocols, or no photo was measured.
    """
    columns = _columns(protocols, methods)
    place = {
        key: (methods.index(one.method), list(columns).index(one.measure))
        for key, one in protocols.items()
        if one.method in methods
    }
    known = tuple((methods.index(first), methods.index(second)) for first, second in pairs)
    parts: list[tuple[np.ndarray, ...]] = []
    failures: list[Failure] = []
    for found in photos:
        if found.failure is not None:
            failures.append(Failure(found.photo, found.failure))
            continue
        parts.append(_photo_sums(found, protocols, place, (len(methods), len(columns)), known))
    if not parts:
        why = f": {failures[0].reason}" if failures else ""
        raise InputError(f"no photo was measured{why}; there is nothing to compare")
    sums, counts, gaps, gap_counts = (np.stack(each) for each in zip(*parts, strict=True))
    return PairedValues(
        tuple(methods), tuple(columns), sums, counts, tuple(pairs), gaps, gap_counts, tuple(failures)
    )  # fmt: skip


def _columns(protocols: Mapping[str, Protocol], methods: Sequence[str]) -> dict[Measure, list[Protocol]]:
    """Return the protocols of every column; refused where those of one differ in more than the method."""
    found: dict[Measure, list[Protocol]] = defaultdict(list)
    for one in protocols.values():
        if one.method in methods:
            found[one.measure].append(one)
    for column in found.values():
        check_one_column(column)
    return found


def _photo_sums(
    found: PhotoRows,
    protocols: Mapping[str, Protocol],
    place: Mapping[str, tuple[int, int]],
    shape: tuple[int, int],
    pairs: Sequence[tuple[int, int]],
) -> tuple[np.ndarray, ...]:
    """Return the sums and counts of one photo, of methods and of their differences."""
    # Several questions of one name are told apart by their order, which is the same for all methods.
    values: dict[tuple[str, int], np.ndarray] = {}
    times: dict[tuple[str, tuple[int, int]], int] = defaultdict(int)
    for row in found.values:
        if row.protocol not in protocols:
            raise InputError(f"{found.photo} has numbers of a protocol that is not there ({row.protocol}); run again")
        if row.protocol not in place:
            continue
        at = place[row.protocol]
        key = (row.question, times[row.question, at])
        times[row.question, at] += 1
        table = values.setdefault(key, np.full(shape, np.nan))
        table[at] = np.nan if row.value is None else row.value
    stacked = np.stack(list(values.values())) if values else np.full((1, *shape), np.nan)
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    gaps = stacked[:, first] - stacked[:, second]
    return (
        np.nansum(stacked, 0), np.isfinite(stacked).sum(0).astype(float),
        np.nansum(gaps, 0), np.isfinite(gaps).sum(0).astype(float),
    )  # fmt: skip
