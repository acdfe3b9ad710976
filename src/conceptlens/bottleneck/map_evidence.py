"""How far each concept's map can be trusted: what its targets were made from, whether its place was ever checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

CLASSES, PHOTOS, DETECTIONS, VLM, NONE = "classes", "photos", "detections", "vlm", "none"
# What a concept was learned from, by its name in a bottleneck's record: in a few words, and what that means.
LEARNED_FROM: dict[str, tuple[str, str]] = {
    CLASSES: ("learned from class labels only", "the map may follow the class, not the concept"),
    PHOTOS: ("learned from labels of whole photos", "they say that it is there, not where"),
    DETECTIONS: (
        "learned from photos that a detector found it in",
        "its boxes were not used, so the map may lie elsewhere",
    ),
    VLM: ("learned from a vision-language model", "it scored whole photos, and nobody checked its scores"),
    NONE: ("not learned from targets", "the map stands for no concept"),
}
MAX_NAMES = 12  # concepts that are named in a line
UNKNOWN = "not known how its targets were made"
UNCHECKED = ("place not checked", "no mask or keypoint says where this is")
TAUGHT = ("place taught by keypoints, not checked", "a few photos taught where its part is, and no other was looked at")
TARGETS_OF, PLACE_CHECKS = "targets_of", "place_checks"  # in the record of a bottleneck, by the concept's label


@dataclass(frozen=True)
class PlaceCheck:
    """What a concept's map was worth against the keypoints of its part, in `photos` photos of `data` that show it.

    - `pointing`: how often the map's highest point is at the part, 0 to 1.
    - `nearer`: whether it is nearer to the part than one fixed cell on average; `None` where that is not known.
    """

    data: str
    photos: int
    pointing: float
    nearer: bool | None = None


@dataclass(frozen=True)
class MapEvidence:
    """What is known of a concept's map.

    - `targets`: a key of `LEARNED_FROM`; `None` where it was not recorded.
    - `check`: the last check of its place, if any.
    - `taught`: whether keypoints of some train photos taught where its part is.
    """

    targets: str | None = None
    check: PlaceCheck | None = None
    taught: bool = False

    @property
    def unchecked(self) -> tuple[str, str]:
        """What is to be said of a place that was never checked, and what that means."""
        return TAUGHT if self.taught else UNCHECKED

    @property
    def learned(self) -> str:
        """What it was learned from, in a sentence."""
        return UNKNOWN if self.targets is None else ": ".join(LEARNED_FROM[self.targets])

    @property
    def learned_briefly(self) -> str:
        """What it was learned from, in a few words."""
        return UNKNOWN if self.targets is None else LEARNED_FROM[self.targets][0]

    @property
    def place(self) -> str:
        """Whether its place was checked, and what came of it, in a sentence."""
        if self.check is not None:
            photos = f"{self.check.photos} photo{'s' * (self.check.photos != 1)} of {self.check.data}"
            return f"place checked against keypoints in {photos}: {self._found(self.check)}"
        return ": ".join(self.unchecked)

    @property
    def place_briefly(self) -> str:
        """Whether its place was checked, and what came of it, in a few words."""
        if self.check is None:
            return self.unchecked[0]
        worse = ", no nearer than one fixed cell" if self.check.nearer is False else ""
        return f"at its part in {self.check.pointing:.0%} of {self.check.photos} checked{worse}"

    @property
    def place_alike(self) -> str:
        """Whether its place was checked, in a sentence that is the same for all concepts of which it is true."""
        if self.check is None:
            return self.place
        worse = ", and no nearer to the part than one fixed cell" if self.check.nearer is False else ""
        return f"place checked against keypoints{worse}"

    @property
    def place_in_doubt(self) -> bool:
        """Whether nothing speaks for its place: never checked, or no nearer than one fixed cell."""
        return self.check is None or self.check.nearer is False

    @staticmethod
    def _found(check: PlaceCheck) -> str:
        than = {None: "", True: ", nearer than one fixed cell", False: ", no nearer than one fixed cell"}
        return f"its highest point is at the part in {check.pointing:.0%}{than[check.nearer]}"


def read_evidence(
    record: Mapping[str, Any], labels: Sequence[str], with_part: Sequence[bool]
) -> tuple[MapEvidence, ...]:
    """Return what the record of a bottleneck says of each concept's map; one from before such records says nothing.

    Args:
        record: The record of the fit, with checks that were added since.
        labels: The concepts' labels.
        with_part: Whether the place of each concept is that of a part.
    """
    targets, checks = (dict(record.get(name, {})) for name in (TARGETS_OF, PLACE_CHECKS))
    return tuple(
        MapEvidence(
            targets.get(label) if targets.get(label) in LEARNED_FROM else None,
            PlaceCheck(**checks[label]) if label in checks else None,
            has_part and bool(record.get("keypoints")),
        )
        for label, has_part in zip(labels, with_part, strict=True)
    )


def evidence_lines(labels: Sequence[str], evidence: Sequence[MapEvidence]) -> list[str]:
    """Return of which concepts the place was checked and what they were learned from: a line for all that are alike."""
    lines = []
    for sentences in ([one.place_alike for one in evidence], [one.learned for one in evidence]):
        groups: dict[str, list[str]] = {}
        for label, sentence in zip(labels, sentences, strict=True):
            groups.setdefault(sentence, []).append(label)
        lines += [f"{sentence} ({_some(names, len(labels))})" for sentence, names in groups.items()]
    return lines


def _some(names: Sequence[str], total: int) -> str:
    """Return names, the first of many; `all 9 concepts` where these are all."""
    if len(names) == total > 1:
        return f"all {total} concepts"
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def recorded_checks(record: Mapping[str, Any], checks: Mapping[str, PlaceCheck]) -> dict[str, Any]:
    """Return the record of a bottleneck with checks of its concepts' places, by label, in the stead of earlier ones."""
    return {**record, PLACE_CHECKS: {**record.get(PLACE_CHECKS, {}), **{k: asdict(v) for k, v in checks.items()}}}
