"""The numbers of an analysis as plain tables, for Parquet and JSON files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from conceptlens.local_embeddings.analysis.layer_analysis import CUTOFFS

if TYPE_CHECKING:
    from conceptlens.local_embeddings.analysis.layer_analysis import ConceptAnalysis, LayerAnalysis
    from conceptlens.local_embeddings.analysis.store_analysis import StoreAnalysis
    from conceptlens.statistics.bootstrap import Interval

Record = dict[str, Any]
# Column of each field of `Agreement`.
AGREEMENT = {
    "purity": "purity", "purity_chance": "chance", "purity_corrected": "corrected", "adjusted_rand": "adjusted_rand",
    "nmi": "nmi", "ami": "ami", "n_clusters": "clusters",
}  # fmt: skip


def analysis_tables(analysis: StoreAnalysis) -> dict[str, list[Record]]:
    """Return the tables of an analysis by name, each a list of records with the same keys; None where not measured.

    Returns:
        `layers`, `concepts` (of each layer), `pairs` (ordered pairs of concepts of each layer) and `sub_concepts` (of
        each layer) hold the statistics; `rows` holds every row of each layer with its own numbers, cluster,
        sub-concept, outlier scores and projection; `merges` and `ellipses` are the tree and the Gaussian mixtures of
        the selected layer, as in the figures.
    """
    layers = analysis.layers.values()
    return {
        "layers": [_layer(analysis, layer) for layer in layers],
        "concepts": [{"layer": layer.layer, **_concept(analysis, one)} for layer in layers for one in layer.concepts],
        "pairs": [pair for layer in layers for pair in _pairs(layer)],
        "sub_concepts": [part for layer in layers for part in _parts(layer)],
        "rows": [row for layer in layers for row in _rows(analysis, layer)],
        "merges": [
            {"left": int(left), "right": int(right), "distance": float(apart), "rows": int(rows)}
            for left, right, apart, rows in analysis.selected.figure_data.tree.merges.tolist()
        ],
        "ellipses": _ellipses(analysis.selected),
    }


def _layer(analysis: StoreAnalysis, layer: LayerAnalysis) -> Record:
    return {
        "layer": layer.layer,
        "channels": layer.channels,
        "best": layer.layer == analysis.best,
        **_spread("average_precision", layer.average_precision),
        "average_precision_chance": layer.chance,
        **_spread("gap_to_best", analysis.gap_to_best.get(layer.layer)),
        **{k: v for at in CUTOFFS for k, v in _spread(f"precision_{at}", layer.precision_at[at]).items()},
        **{f"published_precision_{at}": layer.published_at[at] for at in CUTOFFS},
        **_spread("selectivity", layer.selectivity),
        "unconverged": layer.unconverged,
        "silhouette": layer.silhouette,
        **{name: getattr(layer.agreement, of) for name, of in AGREEMENT.items()},
        **{f"adaptive_{name}": getattr(layer.adaptive_agreement, of) for name, of in AGREEMENT.items()},
        "separation": layer.pairs.separation.mean(),
        "quantile_separation": layer.pairs.quantile_separation.mean(),
        "overlap": layer.pairs.overlap.mean(),
    }


def _concept(analysis: StoreAnalysis, one: ConceptAnalysis) -> Record:
    return {
        "concept": one.concept,
        "rows": one.rows,
        "rows_in_store": analysis.rows.rows_in_store[one.concept],
        "images": one.images,
        **_spread("average_precision", one.average_precision),
        "average_precision_chance": one.chance,
        **{f"precision_{at}": one.precision_at[at] for at in CUTOFFS},
        **_spread("selectivity", one.selectivity),
        "iou": one.own_iou,
        "control_iou": one.control_iou,
        "silhouette": one.silhouette,
        "category_separation": one.category_separation,
        "confused_with": one.confused_with,
        "confused_share": one.confused_share,
        "nearest": one.nearest,
        "nearest_separation": one.nearest_separation,
        "n_sub_concepts": one.n_sub_concepts,
        "stability": one.stability,
    }


def _pairs(layer: LayerAnalysis) -> list[Record]:
    found = vars(layer.pairs)
    names = layer.pairs.separation.labels
    return [
        {
            "layer": layer.layer, "concept": first, "other": second,
            **{name: table.of(i, j) for name, table in found.items()},
        }
        for i, first in enumerate(names) for j, second in enumerate(names)
    ]  # fmt: skip


def _parts(layer: LayerAnalysis) -> list[Record]:
    return [
        {
            "layer": layer.layer, "concept": name, "sub_concept": number, "rows": int((parts.assigned == number).sum()),
            "jaccard": float(parts.found_again[number]) if parts.count > 1 else None,
            "stability": parts.stability, "reason": parts.reason,
        }
        for name, parts in layer.sub_concepts.items() for number in range(parts.count)
    ]  # fmt: skip


def _rows(analysis: StoreAnalysis, layer: LayerAnalysis) -> list[Record]:
    rows, own, found = analysis.rows, analysis.rows.layers[layer.layer], layer.retrieval
    part = {
        int(row): int(p)
        for parts in layer.sub_concepts.values()
        for row, p in zip(parts.rows, parts.assigned, strict=True)
    }
    outliers = {
        score: {int(row): float(s) for one in of.values() for row, s in zip(one.rows, one.scores, strict=True)}
        for score, of in layer.outliers.items()
    }
    point = {int(row): layer.figure_data.points[i].tolist() for i, row in enumerate(layer.figure_data.rows)}
    leaf = {int(row): i for i, row in enumerate(layer.figure_data.rows)}
    return [
        {
            "layer": layer.layer,
            "id": own.ids[row],
            "image": rows.images[row],
            "image_name": rows.image_rows[rows.images[row]].name,
            "concept": str(rows.labels[row]),
            "mask": rows.masks[row] or None,
            "area": _number(rows.areas[row]),
            "iou": _number(own.ious[row]),
            "control_iou": _number(own.control_ious[row]),
            "selectivity": _number(own.ious[row] - own.control_ious[row]),
            "converged": bool(own.converged[row]),
            "average_precision": float(found.average_precision[row]) if found.applies[row] else None,
            "average_precision_chance": float(found.chance[row]) if found.applies[row] else None,
            **{
                f"precision_{at}": float(found.precision[row, i]) if found.applies[row] else None
                for i, at in enumerate(CUTOFFS)
            },
            "silhouette": float(layer.silhouettes.values[row]) if layer.silhouettes.applies[row] else None,
            "cluster": int(layer.clusters[row]),
            "sub_concept": part[row],
            **{f"outlier_{score}": of.get(row) for score, of in outliers.items()},
            "x": point[row][0] if row in point else None,
            "y": point[row][1] if row in point else None,
            "leaf": leaf.get(row),
        }
        for row in range(len(rows))
    ]


def _ellipses(layer: LayerAnalysis) -> list[Record]:
    found = []
    for name, mixture in layer.figure_data.mixtures.items():
        shape = mixture.ellipses()
        for number, (centre, radii, angle) in enumerate(zip(shape.centres, shape.radii, shape.angles, strict=True)):
            found.append(
                {
                    "concept": name, "component": number, "weight": float(mixture.weights[number]),
                    "x": float(centre[0]), "y": float(centre[1]),
                    "longer": float(radii[0]), "shorter": float(radii[1]), "angle": float(angle),
                }
            )  # fmt: skip
    return found


def _spread(name: str, value: Interval | None) -> Record:
    parts = (None, None, None) if value is None else (value.mean, value.low, value.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), parts, strict=True))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
