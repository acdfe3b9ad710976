"""The whole story: every layer, which of them holds concepts best, and what there is to show of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from conceptlens.local_embeddings.analysis.examples import Shown, show
from conceptlens.local_embeddings.analysis.layer_analysis import ConceptStory, LayerStory, tell_layer
from conceptlens.local_embeddings.analysis.selection import Asked
from conceptlens.statistics.bootstrap import Interval, bootstrap_macro_mean

if TYPE_CHECKING:
    from conceptlens.local_embeddings.analysis.analysis_rows import StoryRows


@dataclass(frozen=True, eq=False)
class Story:
    """What a store says of one model.

    - `layers`: from the input up. `best`: the one of highest mean average precision; None where no concept has two
      images. It was chosen on the rows that it is reported on, so its number is a little high.
    - `behind[layer]`: the best layer's average precision less this one's, paired by query, the mean over concepts.
      An interval with 0 in it says that the two are not told apart.
    - `told`: the layer that is told in full. `shown`: its rows to look at.
    """

    rows: StoryRows
    asked: Asked
    layers: Mapping[str, LayerStory]
    best: str | None
    behind: Mapping[str, Interval]
    told: LayerStory
    shown: Shown = field(repr=False)

    @property
    def drawn(self) -> tuple[str, ...]:
        """The concepts that figures show, in alphabetical order."""
        return self.rows.drawn(self.asked.drawn)

    def ranked(self) -> tuple[str, ...]:
        """Return all concepts of the layer told in full, the best held first.

        Those in fewer than five photos stand after the others: two photos that find each other make a perfect score.
        Those without a number are last.
        """

        def order(one: ConceptStory) -> tuple[bool, bool, float, str]:
            return one.precision is None, not one.many, -(one.precision or _NONE).mean, one.concept

        return tuple(one.concept for one in sorted(self.told.concepts, key=order))

    def compared(self) -> tuple[ConceptStory, ...]:
        """Return what can be compared, the best held first: concepts in five photos or more; without any, all."""
        held = [one for one in map(self.told.of, self.ranked()) if one.precision is not None]
        return tuple([one for one in held if one.many] or held)


_NONE = Interval(0.0, None, None, 0, 0)


def tell(rows: StoryRows, asked: Asked, layers: Iterable[str] | None = None) -> Story:
    """Return the story of these rows; `layers` are their layers, by default, or the same with progress shown."""
    told = dict(_told(rows, asked, rows.layers if layers is None else layers))
    held = {name: layer.precision.mean for name, layer in told.items() if layer.precision is not None}
    best = max(held, key=lambda name: held[name]) if held else None
    chosen = told[asked.layer or best or list(told)[-1]]
    return Story(
        rows=rows,
        asked=asked,
        layers=told,
        best=best,
        behind={} if best is None else _behind(rows, told, best, asked),
        told=chosen,
        shown=show(rows, chosen, rows.drawn(asked.drawn)),
    )


def _told(rows: StoryRows, asked: Asked, layers: Iterable[str]) -> Iterator[tuple[str, LayerStory]]:
    for layer in layers:
        yield layer, tell_layer(rows, layer, asked)


def _behind(rows: StoryRows, told: Mapping[str, LayerStory], best: str, asked: Asked) -> dict[str, Interval]:
    first = told[best].retrieval
    asks = first.applies
    found = {}
    for name, layer in told.items():
        if name != best:
            gap = (first.average_precision - layer.retrieval.average_precision)[asks]
            found[name] = bootstrap_macro_mean(gap, rows.labels[asks], rows.images[asks], asked.draws, seed=asked.seed)
    return found
