"""The atlas of a feature space: what local concept embeddings (LoCE, IJCV 2025) say together.

Pure functions of `vectors[row channel]`, `labels[row]` and `images[row]`; each returns arrays or frozen records.
"""

from conceptlens.statistics.cluster_agreement import Agreement, agreement
from conceptlens.statistics.confusion import (
    Composition,
    Votes,
    cluster_confusion,
    composition,
    label_probabilities,
    neighbour_confusion,
    neighbour_votes,
)
from conceptlens.statistics.distance_matrix import distances, distances_between
from conceptlens.statistics.gaussian_mixture import (
    Ellipses,
    Mixture,
    Regions,
    fit_label_mixtures,
    fit_mixture,
    region_map,
)
from conceptlens.statistics.hierarchical_clustering import (
    Tree,
    adaptive_cut,
    cluster,
    cluster_distances,
    count_cut,
    distance_cut,
    size_cut,
)
from conceptlens.statistics.label_separation import (
    category_separation,
    overlap,
    quantile_separation,
    separation,
    silhouettes,
)
from conceptlens.statistics.layer_comparison import STATISTICS, Comparison, Estimate, compare
from conceptlens.statistics.outlier_scores import Outliers, local_outlier_factor, outliers
from conceptlens.statistics.projection import Principal, principal, umap_points
from conceptlens.statistics.prototype import (
    Assigned,
    Prototypes,
    component_prototypes,
    nearest_prototype,
    prototypes,
)
from conceptlens.statistics.retrieval import (
    CUTOFFS,
    Found,
    ListedRetrieval,
    Retrieval,
    expected_average_precision,
    published_precision,
    retrieve,
    retrieve_listed,
    search,
)
from conceptlens.statistics.subclusters import SubConcepts, sub_concepts
from conceptlens.statistics.vectors import Statistic, sample_rows, unit_vectors, usable

__all__ = [
    "CUTOFFS",
    "STATISTICS",
    "Agreement",
    "Assigned",
    "Comparison",
    "Composition",
    "Ellipses",
    "Estimate",
    "Found",
    "ListedRetrieval",
    "Mixture",
    "Outliers",
    "Principal",
    "Prototypes",
    "Regions",
    "Retrieval",
    "Statistic",
    "SubConcepts",
    "Tree",
    "Votes",
    "adaptive_cut",
    "agreement",
    "category_separation",
    "cluster",
    "cluster_confusion",
    "cluster_distances",
    "compare",
    "component_prototypes",
    "composition",
    "count_cut",
    "distance_cut",
    "distances",
    "distances_between",
    "expected_average_precision",
    "fit_label_mixtures",
    "fit_mixture",
    "label_probabilities",
    "local_outlier_factor",
    "nearest_prototype",
    "neighbour_confusion",
    "neighbour_votes",
    "outliers",
    "overlap",
    "principal",
    "prototypes",
    "published_precision",
    "quantile_separation",
    "region_map",
    "retrieve",
    "retrieve_listed",
    "sample_rows",
    "search",
    "separation",
    "silhouettes",
    "size_cut",
    "sub_concepts",
    "umap_points",
    "unit_vectors",
    "usable",
]
