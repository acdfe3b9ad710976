"""Statistics of a set of embeddings, such as local concept embeddings (LoCE, IJCV 2025).

Pure functions of `vectors[row channel]`, `labels[row]` and `images[row]`; each returns arrays or frozen records.
"""

from conceptlens.statistics.confusion import Agreement as Agreement
from conceptlens.statistics.confusion import agreement as agreement
from conceptlens.statistics.confusion import cluster_confusion as cluster_confusion
from conceptlens.statistics.confusion import composition as composition
from conceptlens.statistics.confusion import neighbour_confusion as neighbour_confusion
from conceptlens.statistics.gaussian_mixture import Mixture as Mixture
from conceptlens.statistics.gaussian_mixture import fit_label_mixtures as fit_label_mixtures
from conceptlens.statistics.gaussian_mixture import fit_mixture as fit_mixture
from conceptlens.statistics.hierarchical_clustering import Tree as Tree
from conceptlens.statistics.hierarchical_clustering import adaptive_cut as adaptive_cut
from conceptlens.statistics.hierarchical_clustering import cluster as cluster
from conceptlens.statistics.hierarchical_clustering import count_cut as count_cut
from conceptlens.statistics.label_separation import category_separation as category_separation
from conceptlens.statistics.label_separation import overlap as overlap
from conceptlens.statistics.label_separation import quantile_separation as quantile_separation
from conceptlens.statistics.label_separation import separation as separation
from conceptlens.statistics.label_separation import silhouettes as silhouettes
from conceptlens.statistics.outlier_scores import Outliers as Outliers
from conceptlens.statistics.outlier_scores import outliers as outliers
from conceptlens.statistics.projection import principal as principal
from conceptlens.statistics.projection import umap_points as umap_points
from conceptlens.statistics.prototype import prototypes as prototypes
from conceptlens.statistics.retrieval import Retrieval as Retrieval
from conceptlens.statistics.retrieval import published_precision as published_precision
from conceptlens.statistics.retrieval import retrieve as retrieve
from conceptlens.statistics.retrieval import search as search
from conceptlens.statistics.score import Score as Score
from conceptlens.statistics.subclusters import SubConcepts as SubConcepts
from conceptlens.statistics.subclusters import sub_concepts as sub_concepts
from conceptlens.statistics.vectors import distances as distances
from conceptlens.statistics.vectors import sample_rows as sample_rows
from conceptlens.statistics.vectors import unit_vectors as unit_vectors
from conceptlens.statistics.vectors import usable as usable
