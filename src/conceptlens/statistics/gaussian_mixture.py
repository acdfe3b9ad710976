"""Mixtures of Gaussians over embeddings: how many lumps a label has, where they lie, and whose region is where."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.statistics.vectors import checked, numbered

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.statistics.vectors import Names, Vectors

STEADY = 1e-6  # added to every variance, as scikit-learn and LoCE do


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
    bic: tuple[float, ...] = field(default=())

    def component_density(self, points: Vectors) -> Float[np.ndarray, "point component"]:
        """Return `log N(x; mean_k, covariance_k)` in nats, without the weight."""
        rows = checked(points)
        if rows.shape[1] != self.means.shape[1]:
            raise InputError(f"points have {rows.shape[1]} axes; this mixture has {self.means.shape[1]}")
        found = np.empty((len(rows), len(self.means)))
        for k, (mean, covariance) in enumerate(zip(self.means, self.covariances, strict=True)):
            lower = np.linalg.cholesky(covariance)
            away = np.linalg.solve(lower, (rows - mean).T)
            logarithm = 2 * np.log(np.diagonal(lower)).sum() + len(mean) * np.log(2 * np.pi)
            found[:, k] = -0.5 * ((away**2).sum(0) + logarithm)
        return found

    def density(self, points: Vectors) -> Float[np.ndarray, "point"]:
        """Return the log of the density in nats."""
        return np.logaddexp.reduce(self.component_density(points) + np.log(self.weights), axis=1)

    def memberships(self, points: Vectors) -> Float[np.ndarray, "point component"]:
        """Return how far each point belongs to each component; rows sum to 1."""
        parts = self.component_density(points) + np.log(self.weights)
        return np.exp(parts - np.logaddexp.reduce(parts, axis=1)[:, None])

    def ellipses(self, deviations: float = 1.0) -> Ellipses:
        """Return where each component lies at so many standard deviations, on its first two axes.

        One deviation holds 39 % of a Gaussian in the plane, two hold 86 %. The published figures draw .71 as one.
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


@dataclass(frozen=True, eq=False)
class Regions:
    """Which label is likeliest where: `winner[y x]` numbers `labels`; `x` and `y` are the centres of the cells."""

    winner: Int[np.ndarray, "y x"]
    x: Float[np.ndarray, "x"]
    y: Float[np.ndarray, "y"]
    labels: tuple[str, ...]


def fit_mixture(points: Vectors, most: int = 5, drop: float = 0.0, seed: int = 0) -> Mixture:
    """Return the mixture of 1 to `most` Gaussians that has the lowest BIC, the components of most weight first.

    LoCE (IJCV 2025), on UMAP coordinates: `most=5, drop=.1` for one label, `most=10` (or twice the number of labels)
    for all rows without labels. Components of weight `drop` or less are dropped, and the rest keep their weights.

    So that none is fitted to less than it has axes, there is at most one for every `axes + 1` rows. Full covariances
    of many axes need very many rows: give `principal(vectors, 5).points`, not 256 channels. Needs at least 2 rows.
    """
    rows = checked(points, fewest=2)
    if most < 1 or not 0 <= drop < 1:
        raise InputError(
            f"most is {most} and drop {drop}; expected at least 1 component and a weight from 0 to below 1"
        )
    possible = max(1, min(most, len(rows) // (rows.shape[1] + 1), len(np.unique(rows, axis=0))))
    fitted = [_fitted(rows, count, seed) for count in range(1, possible + 1)]
    bic = [float(found.bic(rows)) for found in fitted]
    return _mixture(fitted[int(np.argmin(bic))], rows, drop, tuple(bic))


def fit_count(points: Vectors, count: int, seed: int = 0) -> Mixture:
    """Return the mixture of exactly `count` Gaussians."""
    rows = checked(points, fewest=max(2, count))
    return _mixture(_fitted(rows, count, seed), rows, 0.0, ())


def fit_label_mixtures(
    points: Vectors, labels: Names, most: int = 5, drop: float = 0.1, seed: int = 0
) -> dict[str, Mixture]:
    """Return `fit_mixture` of each label's own rows; labels of one row have none and are left out."""
    rows = checked(points)
    codes, names = numbered(labels, len(rows))
    own = {name: rows[codes == code] for code, name in enumerate(names)}
    return {name: fit_mixture(found, most, drop, seed) for name, found in own.items() if len(found) > 1}


def region_map(
    mixtures: Mapping[str, Mixture],
    bounds: tuple[float, float, float, float],
    size: int = 200,
    weighted: bool = True,
) -> Regions:
    """Return for every cell of a `size x size` grid the label of highest density (LoCE: 200 x 200).

    `bounds` are left, right, bottom and top, in the unit of the two axes. With `weighted=False` the label of the
    highest single component wins, its weight ignored: the other published form. A label wins however far away its
    rows are; draw the rows too.
    """
    left, right, bottom, top = bounds
    if not mixtures or not (left < right and bottom < top) or size < 1:
        raise InputError(
            f"{len(mixtures)} mixtures, bounds {bounds} and size {size} were given; expected at least one mixture, "
            "left < right, bottom < top and at least one cell"
        )
    x = left + (np.arange(size) + 0.5) * (right - left) / size
    y = bottom + (np.arange(size) + 0.5) * (top - bottom) / size
    cells = np.stack([np.tile(x, size), np.repeat(y, size)], axis=1)
    found = [m.density(cells) if weighted else m.component_density(cells).max(1) for m in mixtures.values()]
    return Regions(np.argmax(found, axis=0).reshape(size, size), x, y, tuple(mixtures))


def _fitted(rows: np.ndarray, count: int, seed: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    variance = float(rows.var(0).mean())
    steady = STEADY * min(1.0, variance) if variance > 0 else STEADY  # what is tiny is not drowned
    with warnings.catch_warnings():
        # Equal rows leave fewer clusters to start from, and 100 steps may not do; the best found so far is taken.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(count, covariance_type="full", reg_covar=steady, random_state=seed).fit(rows)


def _mixture(found: Any, rows: np.ndarray, drop: float, bic: tuple[float, ...]) -> Mixture:
    order = np.argsort(-found.weights_, kind="stable")
    kept = order[found.weights_[order] > drop]
    if not len(kept):
        raise InputError(f"every component weighs {drop} or less, so none would be left; give a smaller drop")
    place = np.full(len(order), -1)
    place[kept] = np.arange(len(kept))
    return Mixture(found.means_[kept], found.covariances_[kept], found.weights_[kept], place[found.predict(rows)], bic)
