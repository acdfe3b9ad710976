"""What a story's numbers say, in sentences: the answers at the top of the page, and the verdict on layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from conceptlens.local_embeddings.analysis.layer_analysis import FEWEST
from conceptlens.pages.number_format import interval_text, number

if TYPE_CHECKING:
    from conceptlens.local_embeddings.analysis.layer_analysis import ConceptStory, LayerStory
    from conceptlens.local_embeddings.analysis.store_analysis import Story
    from conceptlens.statistics.bootstrap import Interval

TOLD = 6  # pairs of concepts that are listed


def opening(story: Story) -> list[dict[str, str]]:
    """Return the five answers in short, each with the section that tells more."""
    return [
        {"to": "held", "question": "Held best, held worst", "answer": _held(story)},
        {"to": "confused", "question": "Confused", "answer": _confused(story)},
        {"to": "parts", "question": "Sub-concepts", "answer": _parts(story)},
        {"to": "odd", "question": "Odd ones", "answer": _odd(story)},
        {"to": "layers", "question": "Best layer", "answer": verdicts(story)},
    ]


def ends(story: Story) -> tuple[Sequence[ConceptStory], Sequence[ConceptStory]]:
    """Return at most three concepts that are held best, and as many held worst, the worst first."""
    ranked = story.compared()
    few = min(3, len(ranked) // 2)
    return ranked[: max(1, few)], ranked[::-1][:few]


def pairs_told(story: Story) -> list[dict[str, str]]:
    """Return what is most taken for something else, by the nearest neighbours in other photos.

    Only a concept that can be compared is told of; it may be taken for any.
    """
    table = story.told.pairs.neighbours
    asks = [table.labels.index(one.concept) for one in story.compared()]
    found = [
        (float(table.values[i, j]), table.labels[i], second)
        for i in asks
        for j, second in enumerate(table.labels)
        if i != j and table.applies[i, j] and table.values[i, j] >= 0.005
    ]
    ordered = sorted(found, key=lambda one: (-one[0], one[1:]))[:TOLD]
    return [{"concept": first, "other": second, "share": f"{share:.0%}"} for share, first, second in ordered]


def verdicts(story: Story) -> str:
    """Return which layer is best, and from which others it cannot be told apart."""
    if story.best is None:
        return "No concept is in two photos, so no layer can be said to find it again."
    held = story.layers[story.best].precision
    told = f"{story.best}, with a mean average precision of {number(held.mean if held else None)}"
    if len(story.layers) == 1:
        return f"{told}; the store has no other."
    close = [name for name, gap in story.behind.items() if gap.low is None or gap.low <= 0]
    if close:
        return f"{told}; {_listed(close)} cannot be told from it."
    name, gap = min(story.behind.items(), key=lambda pair: pair[1].mean)
    return f"{told}; the next, {name}, lies {number(gap.mean)} behind ({number(gap.low)} to {number(gap.high)})."


def otherwise(story: Story) -> str | None:
    """Return which layers other measures would choose; None where they choose the same."""
    if story.best is None or len(story.layers) == 1:
        return None
    chosen = {name: _highest(story, value) for name, value in CHOOSING.items()}
    other = [f"{layer} by {name}" for name, layer in chosen.items() if layer not in (None, story.best)]
    return f"Other measures choose otherwise: {_listed(other)}." if other else None


def _highest(story: Story, value: Callable[[LayerStory], float | None]) -> str | None:
    known = {name: value(layer) for name, layer in story.layers.items()}
    told = {name: number for name, number in known.items() if number is not None}
    return max(told, key=lambda name: told[name]) if told else None


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


CHOOSING: dict[str, Callable[[LayerStory], float | None]] = {
    "selectivity": lambda layer: None if layer.selectivity is None else layer.selectivity.mean,
    "ARI": lambda layer: layer.agreement.adjusted_rand,
    "overlap": lambda layer: _negative(layer.pairs.overlap.mean()),
    "silhouette": lambda layer: layer.silhouette,
}


def beside(layer: LayerStory) -> list[dict[str, str]]:
    """Return LoCE's statistics beside those that mend them, each with what may mislead in the published one."""
    cut, blind, apart = layer.adaptive, layer.agreement, layer.pairs
    return [
        {
            "what": "Retrieval",
            "published": f"{number(layer.published_at[10])} mean P@10 (“mAP@10”)",
            "mended": f"{_told(layer.precision)} mAP, {number(layer.chance, 3)} by chance",
            "why": "A concept of few embeddings cannot fill ten places; another mask of the same photo may be found.",
        },
        {
            "what": "Clusters",
            "published": f"{number(cut.purity)} purity of {cut.clusters} clusters, {number(cut.chance)} by chance",
            "mended": f"{number(blind.adjusted_rand)} ARI, {number(blind.ami)} AMI, {blind.clusters} clusters",
            "why": "The published cut looks at the names, and purity rises with the number of clusters. Both trees are "
            "of directions (vectors of length 1), while the published code takes the vectors as they are.",
        },
        {
            "what": "Distance",
            "published": f"{number(apart.separation.mean())} separation",
            "mended": f"{number(apart.quantile_separation.mean())} by quantiles, {number(layer.silhouette)} silhouette",
            "why": "Two single pairs make the least distance over the greatest; it falls as embeddings are added.",
        },
        {
            "what": "Fit",
            "published": f"{number(layer.own_iou)} IoU with the own mask",
            "mended": "not measured" if layer.selectivity is None else f"{_told(layer.selectivity)} selectivity",
            "why": "With enough channels any mask is fitted, another photo’s as well.",
        },
    ]


def _told(value: Interval | None) -> str:
    text = interval_text(value)
    return f"{text['value']} ({text['spread']})" if text["spread"] else text["value"]


def _held(story: Story) -> str:
    first, last = ends(story)
    if len(story.told.concepts) == 1:
        return "There is one concept, and nothing to tell it from: it is found again whatever the vectors are."
    if not first:
        return "No concept is in two photos, so none can be found again."
    said = [
        ", ".join(f"{one.concept} {interval_text(one.precision)['value']}" for one in part) for part in (first, last)
    ]
    among = f" Of those in at least {FEWEST} photos." if len(story.compared()) < len(story.told.concepts) else ""
    return f"{'; worst '.join(filter(None, said))}. Chance is {number(story.told.chance)}.{among}"


def _confused(story: Story) -> str:
    pairs = pairs_told(story)
    if len(story.told.concepts) == 1 or not story.compared():
        return "Nothing can be said: it takes two concepts, and one of them in two photos."
    if not pairs:
        return "None: every nearest neighbour in another photo is of the same concept."
    said = [f"{one['concept']} for {one['other']} ({one['share']})" for one in pairs[:3]]
    return f"{', '.join(said)}, by nearest neighbours."


def _parts(story: Story) -> str:
    firm = [(one.concept, sum(part.firm for part in one.parts)) for one in story.shown.parted]
    firm = [one for one in firm if one[1] > 1]
    if not story.shown.parted:
        return "None of those drawn shows parts."
    if not firm:
        return "None that another sample of photos would show again."
    return f"{_listed([f'{name} in {count}' for name, count in firm[:4]])}, found again in other samples."


def _odd(story: Story) -> str:
    if not story.shown.odd:
        return "None lies much further from its concept than is usual."
    first = story.shown.odd[0]
    return f"The oddest is one of {first.concept}, {first.times:.1f} times as far from the others as is usual."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
