"""Mixtures of Gaussians over embeddings: how many components a label has, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.io.quiet_warnings import quiet_warnings
from conceptlens.statistics.vectors import check_vectors, encode_labels

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.statistics.vectors import Names, Vectors

REGULARIZATION = 1e-6  # added to every variance, as scikit-learn and LoCE do


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of Gaussians with full covariance, `density(x) = sum_k weights_k N(x; means_k, covariances_k)`.

    - `means[component axis]`, `covariances[component axis axis]`: in the unit of the points, and its square.
    - `weights[component]`: the largest first. They sum to less than 1 where components were dropped.
    - `assigned[row]`: the component of each row, the likeliest one; -1 for rows of a dropped component.
    - `bic`: what 1, 2, ... components cost, `-2 log L + parameters log n`; lower is better.
    """

    means: Float[np.ndarray, "component axis"]
    covariances: Float[np.ndarray, "component axis axis"]
    weights: Float[np.ndarray, "component"]
    assigned: Int[np.ndarray, "row"]
    bic: tuple[float, ...]

    def ellipses(self, deviations: float = 1.0) -> Ellipses:
        """Return where each component lies at so many standard deviations, on its first two axes.

        One deviation holds 39 % of a Gaussian in the plane, two hold 86 %. The published figures draw .71 as one.

        Args:
            deviations: Half axes in standard deviations, above 0.

        Returns:
            One ellipse per component, in the unit of the points.

        Raises:
            InputError: The mixture has fewer than two axes.
        """
        if self.means.shape[1] < 2:
            raise InputError("an ellipse needs at least 2 axes; this mixture has 1")
        variances, directions = np.linalg.eigh(self.covariances[:, :2, :2])
        longer = directions[:, :, 1]
        angles = np.degrees(np.arctan2(longer[:, 1], longer[:, 0])) % 180
        return Ellipses(self.means[:, :2], deviations * np.sqrt(np.maximum(variances[:, ::-1], 0)), angles)


@dataclass(frozen=True, eq=False)
class Ellipses:
    """`centres[component 2]`, `radii[component 2]` (half axes, the longer first), `angles` of the longer in degrees.

    Angles are counted from the first axis towards the second, 0 to 180.
    """

    centres: Float[np.ndarray, "component 2"]
    radii: Float[np.ndarray, "component 2"]
    angles: Float[np.ndarray, "component"]


def fit_mixture(points: Vectors, max_components: int = 5, min_weight: float = 0.0, seed: int = 0) -> Mixture:
    """Return the mixture of 1 to `max_components` Gaussians that has the lowest BIC (scikit-learn's `GaussianMixture`).

    LoCE (IJCV 2025), on UMAP coordinates: `max_components=5, min_weight=.1` for one label, `max_components=10` (or
    twice the number of labels) for all rows without labels. There is at most one component for every `axes + 1` rows.

    Args:
        points: `points[row axis]`, at least 2 rows. Full covariances of many axes need very many rows: give
            `principal(vectors, 5).points`, not 256 channels.
        max_components: The greatest number of components that is tried.
        min_weight: Components of this weight or less are dropped; the others keep their weights.
        seed: Decides where the fit starts.

    Returns:
        The mixture, its components by falling weight.

    Raises:
        InputError: There are fewer than 2 rows, or no component weighs more than `min_weight`.
    """
    rows = check_vectors(points, min_rows=2)
    if max_components < 1 or not 0 <= min_weight < 1:
        raise InputError(
            f"max_components is {max_components} and min_weight {min_weight}; expected at least 1 component and a "
            "weight from 0 to below 1"
        )
    possible = max(1, min(max_components, len(rows) // (rows.shape[1] + 1), len(np.unique(rows, axis=0))))
    fitted = [_fitted(rows, count, seed) for count in range(1, possible + 1)]
    bic = [float(found.bic(rows)) for found in fitted]
    return _mixture(fitted[int(np.argmin(bic))], rows, min_weight, tuple(bic))


def fit_count(rows: np.ndarray, count: int) -> Mixture:
    """Return the mixture of exactly `count` Gaussians, of more rows than that."""
    return _mixture(_fitted(rows, count, 0), rows, 0.0, ())


def fit_label_mixtures(
    points: Vectors, labels: Names, max_components: int = 5, min_weight: float = 0.1, seed: int = 0
) -> dict[str, Mixture]:
    """Return `fit_mixture` of each label's own rows; labels of one row have none and are left out.

    Args:
        points: `points[row axis]`.
        labels: The label of each row, by name or number.
        max_components: The greatest number of components that is tried.
        min_weight: Components of this weight or less are dropped, 0.1 as published.
        seed: Decides where fits start.

    Returns:
        A mixture by label.
    """
    rows = check_vectors(points)
    codes, names = encode_labels(labels, len(rows))
    own = {name: rows[codes == code] for code, name in enumerate(names)}
    return {name: fit_mixture(found, max_components, min_weight, seed) for name, found in own.items() if len(found) > 1}


def _fitted(rows: np.ndarray, count: int, seed: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    variance = float(rows.var(0).mean())
    steady = REGULARIZATION * min(1.0, variance) if variance > 0 else REGULARIZATION  # what is tiny is not drowned
    # Equal rows leave fewer clusters to start from, and 100 steps may not do; the best found so far is taken.
    with quiet_warnings(category=ConvergenceWarning):
        return GaussianMixture(count, covariance_type="full", reg_covar=steady, random_state=seed).fit(rows)


def _mixture(found: Any, rows: np.ndarray, min_weight: float, bic: tuple[float, ...]) -> Mixture:
    order = np.argsort(-found.weights_, kind="stable")
    kept = order[found.weights_[order] > min_weight]
    if not len(kept):
        raise InputError(
            f"every component weighs {min_weight} or less, so none would be left; give a smaller min_weight"
        )
    number = np.full(len(order), -1)
    number[kept] = np.arange(len(kept))
    return Mixture(found.means_[kept], found.covariances_[kept], found.weights_[kept], number[found.predict(rows)], bic)
