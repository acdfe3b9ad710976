"""What a suite is made from, and a suite that is ready to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlens.io.errors import InputError, near
from conceptlens.metrics.pixel_fills import FILLS

if TYPE_CHECKING:
    from conceptlens.benchmark.benchmark_cases import Show
    from conceptlens.benchmark.benchmark_run import BenchmarkTask
    from conceptlens.benchmark.class_map_task import Asked
    from conceptlens.benchmark.comparison import ComparedMethod
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.concept_regions.translator import Translator
    from conceptlens.model.backbone import Backbone

QUICK_PHOTOS = 8
# Fills disagree, so that every table of removed pixels has two at least.
TWO_FILLS = ("mean", "blur")
# What an option of a suite is when it was not given.
NOT_GIVEN = (None, "predicted", [], (), {})


@dataclass(frozen=True, eq=False)
class SuiteOptions:
    """What a suite is made from.

    Args:
        data: The data set, as `open_photos` takes it.
        model: The model; `loce` takes none.
        split: A split of the set.
        max_photos: Take so many photos at most, evenly spaced; by default all, or 8 where `quick`.
        layer: The layer that maps are taken from.
        methods: Names of methods; by default those of the suite.
        metrics: Names of metrics; by default those of the suite.
        fills: What stands in the place of removed pixels, at least two; by default mean and blur, and noisy_linear for
            ROAD.
        asked: Whether maps are of the "predicted" class or of the annotated "label".
        baseline: The method that others are compared with; by default as the suite says.
        gammas: How strongly references count in contrasts.
        references: How references are chosen: logit, rank, weight.
        quick: Few photos, metrics and methods.
        randomised: Whether Grad-CAM of the same network with random weights is one more control; by default in the
            full run of `faithfulness` alone.
        branch: A trained branch that scores concepts.
        bottleneck: Fitted bottlenecks by the names that tables call them.
        cache: A folder where cells of train photos are kept, such as that of the fit, for bottlenecks.
        seed: Of all that is drawn.
        probe: A folder of photos on which neurons are labelled; by default the train split of the set.
        groups: A file with the group of each class, for metrics of groups; by default kinds of class knowledge.
    """

    data: str
    model: Backbone | None = None
    split: str | None = None
    max_photos: int | None = None
    layer: str | None = None
    methods: Sequence[str] = ()
    metrics: Sequence[str] = ()
    fills: Sequence[str] = ()
    asked: Asked = "predicted"
    baseline: str | None = None
    gammas: Sequence[float] = ()
    references: Sequence[str] = ()
    quick: bool = False
    randomised: bool | None = None
    branch: Translator | None = None
    bottleneck: Mapping[str, Bottleneck] = field(default_factory=dict)
    cache: Path | None = None
    seed: int = 0
    groups: Path | None = None
    probe: Path | None = None

    @property
    def known_model(self) -> Backbone:
        """The model, where the suite needs one."""
        if self.model is None:
            raise InputError("this suite measures a model, and none is given; give SuiteOptions(..., model=)")
        return self.model

    @property
    def photos(self) -> int | None:
        """How many photos are taken at most."""
        return QUICK_PHOTOS if self.quick and self.max_photos is None else self.max_photos


@dataclass(frozen=True, eq=False)
class PreparedSuite:
    """A suite, ready to run.

    Attributes:
        name: Its name.
        task: What is measured.
        question: What it answers, as a question.
        methods: The methods of its tables.
        show: Makes the maps of a photo again, for its page; `None` where there are none.
        by_type: Whether questions are concepts, whose types are averaged too (`published_averages`).
        remarks: What the reader must know, such as what was left out, as sentences.
    """

    name: str
    question: str
    task: BenchmarkTask
    methods: tuple[ComparedMethod, ...]
    show: Show | None = None
    remarks: tuple[str, ...] = field(default=())
    by_type: bool = False


def refuse_options(options: SuiteOptions, suite: str, *names: str) -> None:
    """Refuse options that have no effect on a suite.

    Args:
        options: What was given.
        suite: The suite's name.
        *names: The options, by their names in `SuiteOptions`.

    Raises:
        InputError: One of them was given.
    """
    given = [name for name in names if all(getattr(options, name) != one for one in NOT_GIVEN)]
    if given:
        listed = " and ".join(f"--{name}" for name in given)
        raise InputError(f"{listed} {'have' if len(given) > 1 else 'has'} no effect on {suite}; leave {listed} out")


def check_fills(fills: Sequence[str]) -> tuple[str, ...]:
    """Return fills, each once.

    Args:
        fills: What stands in the place of removed pixels.

    Raises:
        InputError: One is unknown, or there are fewer than two.
    """
    for fill in fills:
        if fill not in FILLS:
            raise InputError(f"no fill '{fill}'; {near(fill, FILLS, 'fills', 5)}")
    if len(set(fills)) < 2:
        raise InputError(f"one fill is given ({fills[0]}), and fills disagree; give at least two, such as mean,blur")
    return tuple(dict.fromkeys(fills))
