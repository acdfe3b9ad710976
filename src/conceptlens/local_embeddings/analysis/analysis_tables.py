"""Every number of a story, as plain tables: what Parquet and JSON files hold, and figures only show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from conceptlens.local_embeddings.analysis.layer_analysis import CUTOFFS

if TYPE_CHECKING:
    import numpy as np

    from conceptlens import statistics
    from conceptlens.local_embeddings.analysis.layer_analysis import ConceptStory, LayerStory
    from conceptlens.local_embeddings.analysis.store_analysis import Story
    from conceptlens.statistics.bootstrap import Interval

Record = dict[str, Any]
PARTS = ("purity", "chance", "corrected", "adjusted_rand", "nmi", "ami", "clusters")


def tables(story: Story) -> dict[str, list[Record]]:
    """Return the tables of a story by name, each a list of records with the same keys; None where nothing applies.

    - `layers`, `concepts` (of each layer), `pairs` (ordered pairs of concepts of each layer), `sub_concepts` (of each
      layer): the statistics.
    - `rows`: each row of each layer, with its own numbers, clusters, parts, scores and place on the map.
    - `merges`, `ellipses`: the tree and the mixtures of the layer told in full, as they are drawn.
    """
    told = story.layers.values()
    return {
        "layers": [_layer(story, layer) for layer in told],
        "concepts": [{"layer": layer.layer, **_concept(story, one)} for layer in told for one in layer.concepts],
        "pairs": [pair for layer in told for pair in _pairs(layer)],
        "sub_concepts": [part for layer in told for part in _parts(layer)],
        "rows": [row for layer in told for row in _rows(story, layer)],
        "merges": [
            {"left": int(left), "right": int(right), "distance": float(apart), "rows": int(rows)}
            for left, right, apart, rows in story.told.drawn.tree.merges.tolist()
        ],
        "ellipses": _ellipses(story.told),
    }


def _layer(story: Story, layer: LayerStory) -> Record:
    return {
        "layer": layer.layer,
        "channels": layer.channels,
        "best": layer.layer == story.best,
        **_spread("average_precision", layer.precision),
        "average_precision_chance": layer.chance,
        **_spread("behind_best", story.behind.get(layer.layer)),
        **{k: v for at in CUTOFFS for k, v in _spread(f"precision_{at}", layer.precision_at[at]).items()},
        **{f"published_precision_{at}": layer.published_at[at] for at in CUTOFFS},
        **_spread("selectivity", layer.selectivity),
        "unconverged": layer.unconverged,
        "silhouette": layer.silhouette,
        **{name: getattr(layer.agreement, name) for name in PARTS},
        **{f"adaptive_{name}": getattr(layer.adaptive, name) for name in PARTS},
        "separation": layer.pairs.separation.mean(),
        "quantile_separation": layer.pairs.quantile_separation.mean(),
        "overlap": layer.pairs.overlap.mean(),
    }


def _concept(story: Story, one: ConceptStory) -> Record:
    return {
        "concept": one.concept,
        "rows": one.rows,
        "rows_in_store": story.rows.sizes[one.concept],
        "images": one.images,
        **_spread("average_precision", one.precision),
        "average_precision_chance": one.chance,
        **{f"precision_{at}": one.precision_at[at] for at in CUTOFFS},
        **_spread("selectivity", one.selectivity),
        "iou": one.own_iou,
        "control_iou": one.control_iou,
        "silhouette": one.silhouette,
        "category_separation": one.category_separation,
        "confused_with": one.confused,
        "confused_share": one.confused_share,
        "nearest": one.nearest,
        "nearest_separation": one.nearest_separation,
        "parts": one.parts,
        "stability": one.stability,
    }


def _pairs(layer: LayerStory) -> list[Record]:
    found = vars(layer.pairs)
    names = layer.pairs.separation.labels
    return [
        {
            "layer": layer.layer, "concept": first, "other": second,
            **{name: _at(table, i, j) for name, table in found.items()},
        }
        for i, first in enumerate(names) for j, second in enumerate(names)
    ]  # fmt: skip


def _at(table: statistics.Score[np.ndarray], i: int, j: int) -> float | None:
    return float(table.values[i, j]) if table.applies[i, j] else None


def _parts(layer: LayerStory) -> list[Record]:
    return [
        {
            "layer": layer.layer, "concept": name, "part": number, "rows": int((parts.assigned == number).sum()),
            "found_again": float(parts.found_again[number]) if parts.count > 1 else None,
            "stability": parts.stability, "reason": parts.reason,
        }
        for name, parts in layer.parts.items() for number in range(parts.count)
    ]  # fmt: skip


def _rows(story: Story, layer: LayerStory) -> list[Record]:
    rows, own, found = story.rows, story.rows.layers[layer.layer], layer.retrieval
    part = {
        int(row): int(p) for parts in layer.parts.values() for row, p in zip(parts.rows, parts.assigned, strict=True)
    }
    odd = {
        score: {int(row): float(s) for one in of.values() for row, s in zip(one.rows, one.scores, strict=True)}
        for score, of in layer.odd.items()
    }
    place = {int(row): layer.drawn.points[i].tolist() for i, row in enumerate(layer.drawn.rows)}
    leaf = {int(row): i for i, row in enumerate(layer.drawn.rows)}
    return [
        {
            "layer": layer.layer,
            "id": own.ids[row],
            "image": rows.images[row],
            "image_name": rows.pictures[rows.images[row]].name,
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
            "part": part[row],
            **{f"odd_{score}": of.get(row) for score, of in odd.items()},
            "x": place[row][0] if row in place else None,
            "y": place[row][1] if row in place else None,
            "leaf": leaf.get(row),
        }
        for row in range(len(rows))
    ]


def _ellipses(layer: LayerStory) -> list[Record]:
    found = []
    for name, mixture in layer.drawn.mixtures.items():
        drawn = mixture.ellipses()
        for number, (centre, radii, angle) in enumerate(zip(drawn.centres, drawn.radii, drawn.angles, strict=True)):
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
