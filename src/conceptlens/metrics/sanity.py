"""Does a method beat what knows nothing? Its scores beside those of controls, image by image.

Controls are maps of `control_maps`, maps of a network with random weights or a head for random labels, or whatever else
must not win.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from conceptlens.io.argument_kinds import check_flag, check_integer, check_number, check_type
from conceptlens.io.errors import InputError
from conceptlens.metrics.map_map import map_similarity
from conceptlens.metrics.random_weights import cascade_similarity
from conceptlens.statistics.bootstrap import Interval, bootstrap_difference
from conceptlens.statistics.score import Metric, Score

if TYPE_CHECKING:
    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.map_map import SimilarityName

# Draws of the bootstrap: at least this many, and at least so many beyond each end of the interval.
LEAST_DRAWS, DRAWS_BEYOND = 2000, 20
# Below so many images the bootstrap's intervals are too narrow: of methods that are noise like their four controls, 17
# to 21 of 100 beat one of them on 5 images, 8 to 12 on 10, and 5 to 7 on 20.
LEAST_IMAGES = 20


@dataclass(frozen=True)
class ControlComparison:
    """A method beside one control.

    Attributes:
        control: The control's name.
        difference: The method's mean less the control's over the pairs that both have, with an interval that is
            corrected for the number of comparisons; `None` where they have none in common.
        beaten: Whether the method is better by more than chance explains; `None` where that cannot be said, for there
            are fewer than `LEAST_IMAGES` images.
    """

    control: str
    difference: Interval | None
    beaten: bool | None


@dataclass(frozen=True)
class SanityCheck:
    """A method beside all its controls.

    Attributes:
        comparisons: One for each control.
        level: The confidence level of each interval, after the correction.
    """

    comparisons: tuple[ControlComparison, ...]
    level: float

    @property
    def passed(self) -> bool:
        """Whether every control is beaten."""
        return not self.unbeaten

    @property
    def unbeaten(self) -> tuple[str, ...]:
        """The controls that are not beaten, or of which it cannot be said: what marks a method's row."""
        return tuple(one.control for one in self.comparisons if not one.beaten)


def beats_controls(
    scores: Score,
    controls: Mapping[str, Score],
    higher_is_better: bool,
    level: float = 0.95,
    comparisons: int | None = None,
    n_bootstrap: int | None = None,
    seed: int = 0,
) -> SanityCheck:
    """Return, for each control, whether a method's scores beat it: paired, by image, corrected for many comparisons.

    Each difference has the percentile interval of the paired bootstrap over images (`bootstrap_difference`) at the
    level `1 - (1 - level) / comparisons`, Bonferroni's: all intervals together hold the truth with probability `level`
    or more, but for the bootstrap's own error. A control is beaten where the interval lies wholly on the better side of
    0; below `LEAST_IMAGES` images nothing is said.

    Args:
        scores: The method's scores, by image in the first axis.
        controls: The controls' scores for the same images and questions, by name; the same metric and fill.
        higher_is_better: The metric's direction, `Metric.higher_is_better`.
        level: The confidence level of all comparisons together, between 0 and 1.
        comparisons: How many there are; by default those made here. A table of many methods gives all of its own.
        n_bootstrap: How many draws; by default 2000, or as many as leave 20 beyond each end.
        seed: Decides the draws.

    Returns:
        The comparisons; `unbeaten` names the controls that mark the method.

    Raises:
        InputError: There is no control, shapes or fills differ, or a number is out of range.

    Examples:
        >>> method = deletion(maps, scored)
        >>> controls = {"edges": deletion(edge_maps(scored.images, 1, (7, 7)), scored)}
        >>> beats_controls(method, controls, FAITHFULNESS_METRICS["deletion"].higher_is_better).unbeaten
    """
    check_type(scores, Score, "scores", "a cl.metrics.Score")
    check_type(controls, Mapping, "controls", "scores by name, in a dictionary")
    check_flag(higher_is_better, "higher_is_better")
    if not controls:
        raise InputError("there is no control to beat; give scores of at least one, such as that of centre_maps")
    count = len(controls) if comparisons is None else comparisons
    check_number(level, "level", "a confidence level between 0 and 1", lambda one: 0 < one < 1)
    check_integer(count, "the number of comparisons", len(controls))
    corrected = 1 - (1 - level) / count
    draws = max(LEAST_DRAWS, math.ceil(2 * DRAWS_BEYOND / (1 - corrected))) if n_bootstrap is None else n_bootstrap
    found = []
    for name, control in controls.items():
        check_type(control, Score, f"the control '{name}'", "a cl.metrics.Score")
        difference = _difference(scores, control, name, corrected, draws, seed)
        found.append(ControlComparison(name, difference, _better(difference, higher_is_better)))
    return SanityCheck(tuple(found), corrected)


def random_label_similarity(
    explained: Maps, of_random_labels: Maps, similarity: SimilarityName = "map_spearman"
) -> Score:
    """Return how alike the maps of a head are to those of a head for random labels; -1 to 1, lower is better.

    The data randomisation test of Adebayo et al., NeurIPS 2018, with a head fitted to shuffled labels
    (`conceptlens.heads.random_labels`) in the place of a whole network. A map that shows the same for both is not about
    the classes.

    Args:
        explained: Maps of the network with its own head.
        of_random_labels: Maps of the same images and questions with the other head.
        similarity: A name of `MAP_MAP_METRICS`.

    Returns:
        `values[image question]`; it does not apply where a map is the same everywhere.

    Raises:
        InputError: There is no such similarity, shapes do not fit, or a map is not finite.
    """
    return map_similarity(similarity, explained, of_random_labels)


def _difference(scores: Score, control: Score, name: str, level: float, n_bootstrap: int, seed: int) -> Interval | None:
    if scores.values.shape != control.values.shape or scores.fill != control.fill:
        raise InputError(
            f"scores have shape {tuple(scores.values.shape)} and fill '{scores.fill}', those of the control '{name}' "
            f"{tuple(control.values.shape)} and '{control.fill}'; expected the same images, questions and fill"
        )
    both = torch.as_tensor(scores.applies) & torch.as_tensor(control.applies)
    if not bool(both.any()):
        return None
    mine, theirs = (torch.as_tensor(one.values)[both].double().numpy() for one in (scores, control))
    images = both.nonzero()[:, 0].numpy()
    return bootstrap_difference(mine, theirs, images, n_bootstrap, level, seed)


def _better(difference: Interval | None, higher_is_better: bool) -> bool | None:
    if difference is None or difference.images < LEAST_IMAGES or difference.low is None or difference.high is None:
        return None
    return difference.low > 0 if higher_is_better else difference.high < 0


_ADEBAYO, _SAME = "Adebayo et al., NeurIPS 2018", "1 of a map that ignores them"
_LABELS = random_label_similarity
# Called with functions and maps of their own; the extremes are those of `map_spearman`, the default similarity.
SANITY_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("cascade_similarity", "under random weights", cascade_similarity, False, -1, 1, _SAME, _ADEBAYO,
               ("explain again", "weights")),
        Metric("random_label_similarity", "under random labels", _LABELS, False, -1, 1, _SAME, _ADEBAYO,
               ("map", "random labels")),
    )
}  # fmt: skip
