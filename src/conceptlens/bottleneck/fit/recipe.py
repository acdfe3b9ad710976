"""How a bottleneck is fitted: every choice by name, and the published systems as sets of choices."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from math import cos, isfinite, pi
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from conceptlens.bottleneck.fit.alignment_losses import ALIGNMENT_LOSSES
from conceptlens.bottleneck.locator import LOCATORS
from conceptlens.io.errors import InputError, near

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# How the radius of peaks falls from 1 to 0 over a share of the steps.
RADIUS_SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: 0.5 * (1 + cos(pi * done)),
    "exponential": lambda done: done,  # in the exponent, see radius_at
    "fixed": lambda done: 0.0,
}
CLOSED = ("ridge", "random", "channels")  # concept layers that no steps train


@dataclass(frozen=True)
class Recipe:
    """The settings of a fit.

    Args:
        locator: Where concepts may act: a key of `LOCATORS`, or `auto`: `parts` where the concepts name parts, else
            `whole`.
        masked: Whether the locator also acts when the bottleneck is used; without it, maps are averaged.
        loss: A key of `ALIGNMENT_LOSSES`, trained by steps; or `ridge`, the least squared error in closed form; or a
            control: `random` directions, or `channels`, where each channel of the layer is a concept and the head so a
            linear probe.
        penalties: Ridge penalties, of which the best on held-out photos is taken.
        steps: Training steps of a loss by steps.
        batch: Photos in each of them.
        rate: Their learning rate.
        schedule: How the radius of peaks shrinks: a key of `RADIUS_SCHEDULES`.
        first: The radius it begins with, in cells; by default the longer side of the grid.
        last: The radius it ends with, in cells.
        warmup: The share of the steps before masks are used.
        peaks: How many peaks of a map have a mask.
        replace: Whether the masked loss takes the place of the plain one, else both are added.
        masked_loss: Another loss for the masked activations.
        temperature: Of softmax pooling.
        share: The share of the whole image in the masks of parts, 0 to below 1.
        restarts: How many searches for parts are made; the one with the lowest loss is taken.
        apart: Weight of the term that keeps attentions of parts apart.
        together: Weight of the term that keeps parts of one region near one another.
        small: Weight decay of the attentions.
        keypoints: Learn parts from this many annotated photos of each class, not from property words.
        nec: Number of effective concepts of each class (NEC); by default all concepts may have a weight.
        refit: With `nec`, fit the kept weights anew; VLG-CBM's code does not.
        interpretable: Drop concepts whose held-out activations have a cos-cubed with their targets up to this
            (label-free CBM: 0.45); by default all are kept.
        holdout: The share of the train photos that chooses penalties; the final fit uses all.
        finetune: Epochs in which the network's last stage is trained too.

    Raises:
        InputError: A name is unknown, or a number is out of its range.
    """

    locator: str = "auto"
    masked: bool = True
    loss: str = "ridge"
    penalties: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    steps: int = 500
    batch: int = 256
    rate: float = 0.001
    schedule: str = "linear"
    first: float | None = None
    last: float = 1.0
    warmup: float = 0.2
    peaks: int = 1
    replace: bool = True
    masked_loss: str | None = None
    temperature: float = 1.0
    share: float = 0.0
    restarts: int = 4
    apart: float = 0.1
    together: float = 3.0
    small: float = 0.01
    keypoints: int = 0
    nec: float | None = None
    refit: bool = True
    interpretable: float | None = None
    holdout: float = 0.2
    finetune: int = 0

    def __post_init__(self) -> None:
        """Check names and numbers."""
        for choice in fields(self):
            fits, kind = SETTING_KINDS[str(choice.type)]
            if not fits(getattr(self, choice.name)):
                raise InputError(f"{choice.name} is {getattr(self, choice.name)!r}; give {kind}")
        losses = (*ALIGNMENT_LOSSES, *CLOSED)
        for name, known in (
            ("locator", (*LOCATORS, "auto")),
            ("loss", losses),
            ("masked_loss", (*ALIGNMENT_LOSSES, None)),
        ):
            given = getattr(self, name)
            if given not in known:
                known = tuple(one for one in known if one is not None)
                raise InputError(f"no {name} '{given}'; {near(given, known, 'there are')}")
        if not self.penalties or any(not penalty > 0 for penalty in self.penalties):
            raise InputError(f"penalties are {self.penalties}; give at least one, each above 0")
        minimum = {"steps": 1, "batch": 2, "peaks": 1, "restarts": 1, "keypoints": 0, "finetune": 0}
        for name, lowest in minimum.items():
            value = getattr(self, name)
            if value < lowest:
                raise InputError(f"{name} is {value!r}; give a whole number of at least {lowest}")
        if not 0 < self.holdout < 1 or not 0 <= self.share < 1 or not 0 <= self.warmup < 1:
            raise InputError(
                f"holdout, share and warmup are {self.holdout}, {self.share} and {self.warmup}; give shares below 1"
            )
        if not self.rate > 0 or not self.temperature > 0 or (self.nec is not None and not self.nec > 0):
            raise InputError(
                f"rate, temperature and nec are {self.rate}, {self.temperature} and {self.nec}; give numbers above 0"
            )
        if min(self.apart, self.together, self.small) < 0:
            raise InputError(f"weights are {self.apart}, {self.together}, {self.small}; give none below 0")
        radius_at(self.schedule, 0.0, max(7.0, self.last) if self.first is None else self.first, self.last)
        if self.keypoints and self.locator not in ("parts", "auto"):
            raise InputError(f"keypoints teach the locator 'parts', and '{self.locator}' was given; leave one out")

    def settings(self) -> dict[str, Any]:
        """Return every choice, for the record.

        Returns:
            Values by name, as JSON holds them.
        """
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


# Published systems, as far as their choices are ours to make: "loc-cbm" is this package's own method, "poster" what
# Loc-CBM's poster (ICCV 2025) says and specifications infer, "label-free" LF-CBM (ICLR 2023), "vlg" the concept layer
# of VLG-CBM (NeurIPS 2024), the others are controls.
RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "loc-cbm": {},
        "poster": {"locator": "peaks", "loss": "cos3", "masked_loss": "mse", "masked": False},
        "label-free": {"locator": "whole", "loss": "cos3", "refit": False},
        "ridge": {"locator": "whole", "loss": "ridge"},
        "vlg": {"locator": "whole", "loss": "bce", "steps": 1000, "refit": False},
        "random": {"locator": "whole", "loss": "random"},
        "probe": {"locator": "whole", "loss": "channels"},
    }
)


def recipe_named(name: str = "loc-cbm", **choices: Any) -> Recipe:
    """Return a recipe of `RECIPES`, with some choices made otherwise; `InputError` for unknown names and values."""
    if name not in RECIPES:
        raise InputError(f"no recipe '{name}'; {near(name, RECIPES, 'there are')}")
    known = [field.name for field in fields(Recipe)]
    unknown = [choice for choice in choices if choice not in known]
    if unknown:
        raise InputError(f"a recipe has no choice '{unknown[0]}'; {near(unknown[0], known, 'choices', 5)}")
    return replace(Recipe(**RECIPES[name]), **choices)


def recipe_of(record: Mapping[str, Any]) -> str | None:
    """Return the recipe that a bottleneck was fitted by; `None` where choices that recipes make were made otherwise.

    Args:
        record: The bottleneck's `training_record`.
    """
    deciding = dict.fromkeys(name for settings in RECIPES.values() for name in settings)
    located = {"auto": ("auto", "parts"), **{name: (name,) for name in LOCATORS}}
    for name, settings in RECIPES.items():
        wanted = Recipe(**settings)
        alike = [record.get(one) == getattr(wanted, one) for one in deciding if one != "locator"]
        if all(alike) and record.get("locator") in located[wanted.locator]:
            return name
    return None


def radius_at(shape: str, done: float, first: float, last: float) -> float:
    """Return the radius in cells after a share `done` (0 to 1) of the shrinking: from `first` to `last`, never growing.

    linear `first + (last - first) t`; cosine along half a period; exponential `first (last / first)^t`; fixed `last`.
    Loc-CBM's poster (ICCV 2025) says that the radius shrinks and not how.

    Args:
        shape: A key of `RADIUS_SCHEDULES`.
        done: The share of the shrinking that is done; values outside 0 to 1 count as the nearer end.
        first: The radius at the beginning, in cells.
        last: The radius at the end, in cells.

    Raises:
        InputError: The shape is unknown, or the radii are not positive or grow.
    """
    if shape not in RADIUS_SCHEDULES:
        raise InputError(f"no radius schedule {shape!r}; {near(shape, RADIUS_SCHEDULES, 'schedules')}")
    if not first >= last > 0:
        raise InputError(f"the radius goes from {first} to {last}; give a first radius of at least the last, above 0")
    done = min(1.0, max(0.0, done))
    if shape == "exponential":
        return first * (last / first) ** done
    return last + (first - last) * RADIUS_SCHEDULES[shape](done)


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and isfinite(given)


# By the type of a setting: what is accepted, and its description in messages.
SETTING_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = MappingProxyType(
    {
        "bool": (lambda given: isinstance(given, bool), "true or false"),
        "int": (lambda given: isinstance(given, int) and not isinstance(given, bool), "a whole number"),
        "float": (_is_number, "a number"),
        "float | None": (lambda given: given is None or _is_number(given), "a number, or leave it out"),
        "str": (lambda given: isinstance(given, str), "a name"),
        "str | None": (lambda given: given is None or isinstance(given, str), "a name, or leave it out"),
        "tuple[float, ...]": (
            lambda given: isinstance(given, tuple | list) and all(map(_is_number, given)),
            "a list of numbers",
        ),
    }
)
