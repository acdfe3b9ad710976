"""Do activations tell what other concepts are for: oracle and niche impurity (Espinosa Zarlenga et al., AAAI 2023)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from conceptlens.io.argument_kinds import check_function, check_number
from conceptlens.io.errors import InputError
from conceptlens.metrics.auroc import check_activations, cross_auroc, has_both_labels
from conceptlens.statistics.random_seed import check_seed

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

NICHES = np.linspace(0, 1, 21)  # the thresholds beta over which niche impurity is integrated


class ProbabilityClassifier(Protocol):
    """What predicts a label from activations: any of scikit-learn's classifiers with probabilities."""

    def fit(self, features: Any, labels: Any, /) -> Any:
        """Learn `labels[image]` from `features[image concept]`."""
        ...

    def predict_proba(self, features: Any, /) -> Any:
        """Return probabilities `[image 2]` of absent and present."""
        ...


@dataclass(frozen=True, eq=False)
class Impurity:
    """How much concepts tell about one another, beyond what their labels do.

    - `score`: the distance of the two matrices; 0 is pure, lower is better.
    - `auroc[source target]`: AUROC of each concept's activation for each concept's label, on images held out.
    - `oracle[source target]`: the same of each concept's true label; 1 on the diagonal.
    - `used[concept]`: concepts with both kinds of image on either side of the split; the matrices hold no others.
    """

    score: float
    auroc: Float[Tensor, "source target"]
    oracle: Float[Tensor, "source target"]
    used: Bool[Tensor, "concept"]


def oracle_impurity(
    activations: Float[Tensor, "image concept"],
    labels: Bool[Tensor, "image concept"],
    predictor: Callable[[], ProbabilityClassifier] | None = None,
    held_out: float = 0.2,
    seed: int = 0,
) -> Impurity:
    """Return the oracle impurity score (OIS) of activations; 0 is pure, 1 where every entry is one half off.

    `2 / k * ||auroc - oracle||_F` over k concepts, where `auroc[i, j]` is the AUROC, on held-out images, of a predictor
    of concept j's label from concept i's activation, and `oracle` the same from i's label, its diagonal set to 1
    (definition and official code of Espinosa Zarlenga et al., AAAI 2023). A concept that tells too little raises it as
    well: its own AUROC is on the diagonal, and labels that tell of one another must be predicted as well.

    `predictor` makes an untrained classifier. The default is logistic regression, where the paper takes an MLP of 32
    units: of one activation it can only choose the direction, so nothing is fitted in steps; **what an activation tells
    in ways that neither rise nor fall is not seen**. For the paper's, `lambda: MLPClassifier((32,))`, k^2 fits. One
    split, by `seed`, serves both matrices, where the official code draws two.

    Args:
        activations: `[image concept]`, finite.
        labels: Bool `[image concept]`.
        predictor: Makes an untrained scikit-learn classifier.
        held_out: Share of the images that the AUROC is measured on.
        seed: Decides which images.

    Returns:
        The score with both matrices.

    Raises:
        InputError: Fewer than 2 concepts have images with and without them on both sides of the split.
    """
    if predictor is not None:
        check_function(predictor, "predictor", "that makes an untrained classifier")
    values, positive, train, used = _prepared(activations, labels, held_out, seed)
    auroc = _predicted(values, positive, train, predictor)
    oracle = _predicted(positive.astype(np.float64), positive, train, predictor)
    np.fill_diagonal(oracle, 1)
    score = 2 / len(auroc) * float(np.linalg.norm(auroc - oracle))
    return Impurity(score, torch.from_numpy(auroc), torch.from_numpy(oracle), used)


def niche_impurity(
    activations: Float[Tensor, "image concept"],
    labels: Bool[Tensor, "image concept"],
    held_out: float = 0.2,
    seed: int = 0,
) -> float:
    """Return the niche impurity score (NIS): what *sets* of other concepts tell; 1/2 to 1, lower is better.

    `integral over beta in [0, 1] of the mean over concepts j of AUROC(f_j without N_j(beta))`, where f predicts all
    labels from all activations and the niche `N_j(beta)` holds the activations whose correlation with label j, on the
    train images, is above beta in size: they are set to 0 (Espinosa Zarlenga et al., AAAI 2023). An empty remainder has
    1/2. **Not zero for a pure bottleneck** where labels are correlated: compare with the score of the labels.

    f is a logistic regression for each concept, where the paper takes one MLP of 20 and 20 units. Differs from the
    official code in three ways: activations are standardised, so that 0 is the mean; beta runs to 1, not 0.95; and
    outputs are ranked as they are, where that code first takes a softmax over concepts.

    Args:
        activations: `[image concept]`, finite.
        labels: Bool `[image concept]`.
        held_out: Share of the images that the AUROC is measured on.
        seed: Decides which images.

    Returns:
        The score, 1/2 to 1.

    Raises:
        InputError: Fewer than 2 concepts have images with and without them on both sides of the split.
    """
    from sklearn.linear_model import LogisticRegression

    values, positive, train, _ = _prepared(activations, labels, held_out, seed)
    spread = values[train].std(0)
    values = (values - values[train].mean(0)) / np.where(spread > 0, spread, 1)
    weights = [LogisticRegression(max_iter=2000).fit(values[train], truth).coef_[0] for truth in positive[train].T]
    truth = positive[train] - positive[train].mean(0)
    related = np.abs(values[train].T @ truth) / (train.sum() * truth.std(0))
    found: list[float] = []
    for beta in NICHES:
        outside = np.where(related > beta, 0, np.stack(weights, axis=1))
        found.append(float(cross_auroc(values[~train] @ outside, positive[~train], paired=True).mean()))
    return float(np.mean((np.array(found[1:]) + found[:-1]) / 2))  # the trapezoid rule over even steps


def _prepared(
    activations: Tensor, labels: Tensor, held_out: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Tensor]:
    """Return the usable concepts' activations and labels, which images are for training, which concepts are usable."""
    values, positive = check_activations(activations, labels)
    check_number(held_out, "held_out", "a share of the images between 0 and 1", lambda one: 0 < one < 1)
    order = np.random.default_rng(check_seed(seed)).permutation(len(values))
    train = np.ones(len(values), bool)
    train[order[: round(held_out * len(values))]] = False
    used = has_both_labels(positive[train]) & has_both_labels(positive[~train])
    if used.sum() < 2:
        raise InputError(
            f"{int(used.sum())} of {len(used)} concepts have images with and without them on both sides of the split; "
            "expected at least 2: give more images, or drop concepts that all images or none show"
        )
    return values[:, used], positive[:, used], train, torch.from_numpy(used)


def _predicted(
    values: np.ndarray, positive: np.ndarray, train: np.ndarray, predictor: Callable[[], ProbabilityClassifier] | None
) -> Float[np.ndarray, "source target"]:
    """Return the AUROC on held-out images of each target's label, predicted from each source alone.

    Logistic regression of one feature has a slope of the sign of their covariance, and its probability is monotone.
    """
    if predictor is None:
        centred = positive[train] - positive[train].mean(0)
        slope = np.sign(values[train].T @ centred)
        rising = cross_auroc(values[~train], positive[~train])
        return np.where(slope > 0, rising, np.where(slope < 0, 1 - rising, 0.5))
    auroc = np.zeros((values.shape[1], positive.shape[1]))
    for i, feature in enumerate(values.T[..., None]):
        for j, label in enumerate(positive.T):
            fitted = predictor().fit(feature[train], label[train])
            present = np.asarray(fitted.predict_proba(feature[~train]))[:, 1:]
            auroc[i, j] = cross_auroc(present, label[~train, None], paired=True)[0]
    return auroc
