"""Statistics of a set of embeddings, such as local concept embeddings (LoCE, IJCV 2025).

Pure functions of `vectors[row channel]`, `labels[row]` and `images[row]`; each returns arrays or frozen records.
"""

from conceptlens.statistics.cluster_agreement import Agreement, agreement
from conceptlens.statistics.confusion import (
    Composition,
    Votes,
    cluster_confusion,
    composition,
    neighbour_confusion,
    neighbour_votes,
)
from conceptlens.statistics.distance_matrix import distances, distances_between
from conceptlens.statistics.gaussian_mixture import (
    Ellipses,
    Mixture,
    fit_label_mixtures,
    fit_mixture,
)
from conceptlens.statistics.hierarchical_clustering import (
    Tree,
    adaptive_cut,
    cluster,
    cluster_distances,
    count_cut,
)
from conceptlens.statistics.label_separation import (
    category_separation,
    overlap,
    quantile_separation,
    separation,
    silhouettes,
)
from conceptlens.statistics.outlier_scores import Outliers, outliers
from conceptlens.statistics.projection import Principal, principal, umap_points
from conceptlens.statistics.prototype import (
    Prototypes,
    component_prototypes,
    prototypes,
)
from conceptlens.statistics.retrieval import (
    CUTOFFS,
    Retrieval,
    SearchHits,
    expected_average_precision,
    published_precision,
    retrieve,
    search,
)
from conceptlens.statistics.score import Score
from conceptlens.statistics.subclusters import SubConcepts, sub_concepts
from conceptlens.statistics.vectors import sample_rows, unit_vectors, usable

__all__ = [
    "CUTOFFS",
    "Agreement",
    "Composition",
    "Ellipses",
    "Mixture",
    "Outliers",
    "Principal",
    "Prototypes",
    "Retrieval",
    "Score",
    "SearchHits",
    "SubConcepts",
    "Tree",
    "Votes",
    "adaptive_cut",
    "agreement",
    "category_separation",
    "cluster",
    "cluster_confusion",
    "cluster_distances",
    "component_prototypes",
    "composition",
    "count_cut",
    "distances",
    "distances_between",
    "expected_average_precision",
    "fit_label_mixtures",
    "fit_mixture",
    "neighbour_confusion",
    "neighbour_votes",
    "outliers",
    "overlap",
    "principal",
    "prototypes",
    "published_precision",
    "quantile_separation",
    "retrieve",
    "sample_rows",
    "search",
    "separation",
    "silhouettes",
    "sub_concepts",
    "umap_points",
    "unit_vectors",
    "usable",
]
