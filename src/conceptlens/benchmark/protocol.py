"""How a number was measured, as data: numbers of two protocols are not put in one column."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import bytes_fingerprint

# What the rows of one column may differ in: a column compares methods.
OF_METHOD = ("method", "method_settings")


class Measure(NamedTuple):
    """One column of numbers: a metric and its fill; the fill is empty where no pixel is removed."""

    metric: str
    fill: str = ""


@dataclass(frozen=True, eq=False)
class Protocol:
    """All that decides one number of a photo: two protocols with the same hash give the same number.

    Args:
        data: The data set and its split, by name.
        data_fingerprint: Of the names and labels of the photos that are measured.
        photos: How many they are.
        model: The model's name.
        weights: The fingerprint of its weights.
        layer: The layer that maps are taken from.
        question: What is asked about every photo: "predicted", its predicted class; "label", its annotated class; or
            "concepts", those that its masks show.
        method: The method's name.
        method_settings: All that it was given.
        metric: The metric's name.
        metric_settings: All that it was given, but the fill.
        fill: What stands in the place of removed pixels; empty where none are removed.
        resolution: Rows and columns at which the metric works, in pixels.
        seed: Of everything that is drawn.

    Raises:
        InputError: A setting is something that JSON does not hold.
    """

    data: str
    data_fingerprint: str
    photos: int
    model: str
    weights: str
    layer: str
    question: str
    method: str
    metric: str
    fill: str = ""
    resolution: tuple[int, int] = (0, 0)
    seed: int = 0
    method_settings: Mapping[str, Any] = field(default_factory=dict)
    metric_settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep settings as JSON gives them back."""
        for name in ("method_settings", "metric_settings"):
            try:
                plain = json.loads(json.dumps(dict(getattr(self, name)), allow_nan=False, sort_keys=True))
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"{name} of {self.method or self.metric} cannot be written as JSON ({error}); give texts, finite "
                    "numbers, true or false, and lists of them"
                ) from None
            object.__setattr__(self, name, plain)
        object.__setattr__(self, "resolution", (int(self.resolution[0]), int(self.resolution[1])))

    @cached_property
    def json(self) -> str:
        """The protocol as canonical JSON: sorted keys, no blanks; equal protocols give equal texts."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @cached_property
    def hash(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of `json`."""
        return bytes_fingerprint(self.json.encode("utf-8", "surrogatepass"))

    @cached_property
    def column(self) -> str:
        """The hash of all but the method: methods may be compared where this is the same."""
        return replace(self, method="", method_settings={}).hash

    @property
    def measure(self) -> Measure:
        """The metric and its fill."""
        return Measure(self.metric, self.fill)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Protocol:
        """Return the protocol that a JSON object holds.

        Args:
            given: The object, such as `json.loads(protocol.json)`.

        Raises:
            InputError: A field is missing or unknown.
        """
        names = [one.name for one in fields(cls)]
        if sorted(given) != sorted(names):
            wrong = sorted(set(given) ^ set(names))
            raise InputError(
                f"a protocol with other fields was given ({', '.join(wrong)}); expected {', '.join(names)}"
            )
        rows, columns = given["resolution"]
        return cls(**{**given, "resolution": (rows, columns)})


def differences(first: Protocol, second: Protocol) -> str:
    """Return what differs between two protocols, but the method, as the end of a sentence; empty where nothing does.

    Args:
        first: A protocol.
        second: Another one.
    """
    return "; ".join(
        f"{one.name.replace('_', ' ')} {_shown(getattr(first, one.name))} and {_shown(getattr(second, one.name))}"
        for one in fields(Protocol)
        if one.name not in OF_METHOD and getattr(first, one.name) != getattr(second, one.name)
    )


def check_one_column(protocols: Sequence[Protocol]) -> None:
    """Refuse to put numbers of different protocols in one column.

    Args:
        protocols: Those of a column's numbers; methods may differ.

    Raises:
        InputError: They differ in more than the method; the sentence says in what.
    """
    for other in protocols[1:]:
        if other.column != protocols[0].column:
            raise InputError(
                f"{protocols[0].method} and {other.method} were not measured alike in {other.metric}: "
                f"{differences(protocols[0], other)}; compare numbers of one protocol"
            )


def _shown(value: Any) -> str:
    """Return a value for a sentence."""
    return json.dumps(value, sort_keys=True) if isinstance(value, Mapping) else repr(value)
