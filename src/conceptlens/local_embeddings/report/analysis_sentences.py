"""The numbers of an analysis in sentences: the summary at the top of the page, and the comparison of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from conceptlens.local_embeddings.analysis.layer_analysis import MIN_IMAGES
from conceptlens.pages.number_format import interval_text, number

if TYPE_CHECKING:
    from conceptlens.local_embeddings.analysis.layer_analysis import ConceptAnalysis, LayerAnalysis
    from conceptlens.local_embeddings.analysis.store_analysis import StoreAnalysis
    from conceptlens.statistics.bootstrap import Interval

MAX_PAIRS = 6  # of confused concepts that are listed


def summary_lines(analysis: StoreAnalysis) -> list[dict[str, str]]:
    """Return the five answers of the summary, each with the id of its section."""
    return [
        {"to": "retrieval", "question": "Retrieved best and worst", "answer": _retrieval(analysis)},
        {"to": "confusion", "question": "Confusion", "answer": _confused(analysis)},
        {"to": "sub-concepts", "question": "Sub-concepts", "answer": _sub_concepts(analysis)},
        {"to": "outliers", "question": "Outliers", "answer": _outliers(analysis)},
        {"to": "layers", "question": "Best layer", "answer": best_layer(analysis)},
    ]


def best_and_worst(analysis: StoreAnalysis) -> tuple[Sequence[ConceptAnalysis], Sequence[ConceptAnalysis]]:
    """Return at most three concepts of highest average precision, and as many of lowest, the lowest first."""
    ranked = analysis.compared()
    few = min(3, len(ranked) // 2)
    return ranked[: max(1, few)], ranked[::-1][:few]


def confused_pairs(analysis: StoreAnalysis) -> list[dict[str, str]]:
    """Return the most confused pairs: concept, the other concept of its nearest neighbours, and their share.

    Of the concepts in five photos or more; the other one may be any.
    """
    table = analysis.selected.pairs.neighbours
    queries = [table.labels.index(one.concept) for one in analysis.compared()]
    found = [
        (float(table.values[i, j]), table.labels[i], second)
        for i in queries
        for j, second in enumerate(table.labels)
        if i != j and table.applies[i, j] and table.values[i, j] >= 0.005
    ]
    ordered = sorted(found, key=lambda one: (-one[0], one[1:]))[:MAX_PAIRS]
    return [{"concept": first, "other": second, "share": f"{share:.0%}"} for share, first, second in ordered]


def best_layer(analysis: StoreAnalysis) -> str:
    """Return which layer is best, and from which others it cannot be distinguished."""
    if analysis.best is None:
        return "No concept is in two photos, so layers cannot be compared."
    precision = analysis.layers[analysis.best].average_precision
    text = f"{analysis.best}, with a mean average precision of {number(precision.mean if precision else None)}"
    if len(analysis.layers) == 1:
        return f"{text}; the store has no other."
    close = [name for name, gap in analysis.gap_to_best.items() if gap.low is None or gap.low <= 0]
    if close:
        return f"{text}; {_listed(close)} cannot be distinguished from it."
    name, gap = min(analysis.gap_to_best.items(), key=lambda pair: pair[1].mean)
    return f"{text}; the next, {name}, lies {number(gap.mean)} behind ({number(gap.low)} to {number(gap.high)})."


def other_best_layers(analysis: StoreAnalysis) -> str | None:
    """Return which layers other measures would choose; None where they choose the same."""
    if analysis.best is None or len(analysis.layers) == 1:
        return None
    chosen = {name: _highest(analysis, value) for name, value in MEASURES.items()}
    other = [f"{layer} by {name}" for name, layer in chosen.items() if layer not in (None, analysis.best)]
    return f"Other measures choose other layers: {_listed(other)}." if other else None


def _highest(analysis: StoreAnalysis, value: Callable[[LayerAnalysis], float | None]) -> str | None:
    known = {name: value(layer) for name, layer in analysis.layers.items()}
    measured = {name: number for name, number in known.items() if number is not None}
    return max(measured, key=lambda name: measured[name]) if measured else None


MEASURES: dict[str, Callable[[LayerAnalysis], float | None]] = {
    "selectivity": lambda layer: None if layer.selectivity is None else layer.selectivity.mean,
    "ARI": lambda layer: layer.agreement.adjusted_rand,
    "overlap": lambda layer: None if (overlap := layer.pairs.overlap.mean()) is None else -overlap,
    "silhouette": lambda layer: layer.silhouette,
}


def published_and_corrected(layer: LayerAnalysis) -> list[dict[str, str]]:
    """Return LoCE's statistics (IJCV 2025) beside corrected ones, each with what misleads in the published one."""
    cut, own, apart = layer.adaptive_agreement, layer.agreement, layer.pairs
    return [
        {
            "what": "Retrieval",
            "published": f"{number(layer.published_at[10])} mean P@10 (“mAP@10”)",
            "corrected": f"{_with_interval(layer.average_precision)} mAP, {number(layer.chance, 3)} by chance",
            "why": "A concept of few embeddings cannot fill ten places; another mask of the same photo may be found.",
        },
        {
            "what": "Clusters",
            "published": f"{number(cut.purity)} purity of {cut.clusters} clusters, {number(cut.chance)} by chance",
            "corrected": f"{number(own.adjusted_rand)} ARI, {number(own.ami)} AMI, {own.clusters} clusters",
            "why": "The published cut looks at the names, and purity rises with the number of clusters. Both trees are "
            "of directions (vectors of length 1), while the published code takes the vectors as they are.",
        },
        {
            "what": "Distance",
            "published": f"{number(apart.separation.mean())} separation",
            "corrected": f"{number(apart.quantile_separation.mean())} by quantiles, "
            f"{number(layer.silhouette)} silhouette",
            "why": "Two single pairs make the least distance over the greatest; it falls as embeddings are added.",
        },
        {
            "what": "Fit",
            "published": f"{number(layer.own_iou)} IoU with the own mask",
            "corrected": "not measured"
            if layer.selectivity is None
            else f"{_with_interval(layer.selectivity)} selectivity",
            "why": "With enough channels any mask is fitted, another photo’s as well.",
        },
    ]


def _with_interval(value: Interval | None) -> str:
    text = interval_text(value)
    return f"{text['value']} ({text['spread']})" if text["spread"] else text["value"]


def _retrieval(analysis: StoreAnalysis) -> str:
    first, last = best_and_worst(analysis)
    if len(analysis.selected.concepts) == 1:
        return "There is one concept only, so every retrieved embedding is right whatever the vectors are."
    if not first:
        return "No concept is in two photos, so nothing can be retrieved."
    text = [
        ", ".join(f"{one.concept} {interval_text(one.average_precision)['value']}" for one in part)
        for part in (first, last)
    ]
    among = (
        f" Of those in at least {MIN_IMAGES} photos."
        if len(analysis.compared()) < len(analysis.selected.concepts)
        else ""
    )
    return f"{'; worst: '.join(filter(None, text))}. Chance is {number(analysis.selected.chance)}.{among}"


def _confused(analysis: StoreAnalysis) -> str:
    pairs = confused_pairs(analysis)
    if len(analysis.selected.concepts) == 1 or not analysis.compared():
        return "Not measured: it takes two concepts, and one of them in two photos."
    if not pairs:
        return "None: every nearest neighbour in another photo is of the same concept."
    text = [f"{one['concept']} with {one['other']} ({one['share']})" for one in pairs[:3]]
    return f"{', '.join(text)}, by nearest neighbours."


def _sub_concepts(analysis: StoreAnalysis) -> str:
    found = [(one.concept, sum(part.reproducible for part in one.parts)) for one in analysis.examples.sub_concepts]
    found = [one for one in found if one[1] > 1]
    if not analysis.examples.sub_concepts:
        return "None of the concepts shown has any."
    if not found:
        return "None that is found again in other samples of the photos."
    return f"{_listed([f'{name} ({count})' for name, count in found[:4]])}, found again in other samples."


def _outliers(analysis: StoreAnalysis) -> str:
    if not analysis.examples.outliers:
        return "None is much farther from its concept than the median embedding."
    first = analysis.examples.outliers[0]
    times = f"{first.distance_ratio:.1f} times"
    return f"The farthest is one of {first.concept}, {times} as far from the others as the median embedding."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
