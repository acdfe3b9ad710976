"""Do activations tell images with a concept from those without: the area under the ROC curve, by concept.

They take `activations[image concept]` and bool `labels[image concept]`. Only the order of activations counts. Where
`known[image concept]` is false, the label is not known, and the image does not count for that concept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlens.io.argument_kinds import check_number, check_type
from conceptlens.io.errors import InputError
from conceptlens.metrics.given_maps import classes_in, tensor_of
from conceptlens.statistics.bootstrap import Interval, bootstrap
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


def class_labels(
    shares: Float[Tensor, "class concept"], classes: Int[Tensor, "image"], threshold: float = 0.5
) -> Bool[Tensor, "image concept"]:
    """Return each image's labels from its class: whether `threshold` or more of the class's images have the concept.

    An image may lack what its class has: an AUROC of these labels judges knowledge of the class.

    Args:
        shares: `[class concept]`, the share of each class's images that have each concept, 0 to 1.
        classes: The class number of each image.
        threshold: The share from which a class has a concept.

    Returns:
        Bool `[image concept]`.

    Raises:
        InputError: A class number or a share is out of range.
    """
    check_type(shares, torch.Tensor, "shares", "a tensor, class concept")
    classes = classes_in(classes, "classes")
    check_number(threshold, "threshold", "a share, finite")
    if shares.ndim != 2 or not bool(torch.isfinite(shares).all()):
        raise InputError(f"shares have shape {tuple(shares.shape)}; expected finite shares[class concept]")
    if classes.ndim != 1 or (len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < len(shares)):
        raise InputError(f"classes must be numbers from 0 to {len(shares) - 1}, one for each image")
    return (shares >= threshold)[classes]


def concept_auroc(
    activations: Float[Tensor, "image concept"],
    labels: Bool[Tensor, "image concept"],
    known: Bool[Tensor, "image concept"] | None = None,
) -> Score:
    """Return the AUROC of each concept over the images, as a score of one row; 0 to 1, higher is better, chance 0.5.

    `P(activation with the concept > activation without) + P(equal) / 2`. Applies where some images have the concept
    and some do not.

    Args:
        activations: `[image concept]`, finite.
        labels: Bool `[image concept]`.
        known: Which labels are known; by default all.

    Returns:
        `values[1 concept]`.

    Raises:
        InputError: Shapes do not fit, or an activation is not finite.
    """
    values, positive = check_activations(activations, labels)
    found, applies = _of_known(values, positive, _known(known, positive))
    return Score(torch.from_numpy(np.where(applies, found, 0))[None], torch.from_numpy(applies)[None])


def auroc_interval(
    activations: Float[Tensor, "image concept"],
    labels: Bool[Tensor, "image concept"],
    n_bootstrap: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    known: Bool[Tensor, "image concept"] | None = None,
) -> Interval:
    """Return the mean AUROC over concepts, with its percentile interval from images resampled with replacement.

    A concept of which a draw has only one kind is left out of that draw's mean, and a draw without any concept left out
    altogether. It says how sure the mean is for these concepts, not what others would have.

    Args:
        activations: `activations[image concept]`, finite.
        labels: Whether each image has each concept.
        n_bootstrap: How many draws.
        level: The confidence level, between 0 and 1.
        seed: Decides the draws.
        known: Which labels are known; by default all.

    Returns:
        The interval; `count` is the number of concepts that apply.

    Raises:
        InputError: No concept has images with and without it.
    """
    values, positive = check_activations(activations, labels)
    told = _known(known, positive)
    found, applies = _of_known(values, positive, told)
    if not applies.any():
        raise InputError("no concept has images with and without it; expected at least one")
    columns = [(values[told[:, i], i], positive[told[:, i], i], told[:, i]) for i in np.flatnonzero(applies)]

    def resampled(times: Float[np.ndarray, "draw image"]) -> Float[np.ndarray, "draw"]:
        drawn = np.stack([_weighted(v, p, times.T[rows]) for v, p, rows in columns], axis=1)
        defined = ~np.isnan(drawn)
        means = np.where(defined, drawn, 0).sum(1) / np.maximum(defined.sum(1), 1)
        return np.where(defined.any(1), means, np.nan)

    mean = float(found[applies].mean())
    return bootstrap(mean, resampled, len(values), int(applies.sum()), n_bootstrap, level, seed)


def cross_auroc(
    values: Float[np.ndarray, "image source"], positive: Bool[np.ndarray, "image target"], paired: bool = False
) -> Float[np.ndarray, "source target"] | Float[np.ndarray, "target"]:
    """Return the AUROC of every source for every target, or of each source for its own target if `paired`.

    `(sum of ranks of positives - p (p + 1) / 2) / (p n)`, equal values sharing their mean rank; 0 where a target has
    one kind only.

    Args:
        values: `[image source]`.
        positive: Bool `[image target]`.
        paired: Whether source and target of one number are compared alone.

    Returns:
        `[source target]`, or `[target]` if `paired`; 0 to 1.
    """
    from scipy.stats import rankdata  # takes a second to load

    ranks = rankdata(values, axis=0)  # from 1; equal values share their mean rank
    p = positive.sum(0).astype(np.float64)
    pairs = np.maximum(p * (len(values) - p), 1)
    sums = (ranks * positive).sum(0) if paired else ranks.T @ positive.astype(np.float64)
    return np.where(has_both_labels(positive), (sums - p * (p + 1) / 2) / pairs, 0)


def has_both_labels(positive: Bool[np.ndarray, "image concept"]) -> Bool[np.ndarray, "concept"]:
    """Return which concepts have images of both kinds.

    Args:
        positive: Bool `[image concept]`.

    Returns:
        Bool `[concept]`.
    """
    return np.logical_and(positive.any(0), ~positive.all(0))


def check_activations(activations: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return activations in float64 and labels, both as arrays.

    Args:
        activations: `[image concept]`, on any device.
        labels: Bool `[image concept]`.

    Returns:
        Both as arrays `[image concept]`.

    Raises:
        InputError: Shapes or types do not fit, or an activation is not finite.
    """
    activations, labels = tensor_of(activations, "activations"), tensor_of(labels, "labels")
    if activations.ndim != 2 or activations.shape != labels.shape or labels.dtype != torch.bool:
        raise InputError(
            f"activations have shape {tuple(activations.shape)}, labels {tuple(labels.shape)} of {labels.dtype}; "
            "expected activations[image concept] and bool labels of one shape"
        )
    values = activations.double().numpy()
    wrong = np.flatnonzero(~np.isfinite(values).all(0))
    if len(wrong):
        raise InputError(f"activations of concepts {wrong[:5].tolist()} are NaN or infinite; leave these concepts out")
    return values, labels.numpy()


def _known(known: Tensor | None, positive: Bool[np.ndarray, "image concept"]) -> Bool[np.ndarray, "image concept"]:
    """Return which labels are known, all where nothing is said; refused where they are of another shape."""
    if known is None:
        return np.ones_like(positive)
    known = tensor_of(known, "known")
    if tuple(known.shape) != positive.shape or known.dtype != torch.bool:
        raise InputError(f"known is {tuple(known.shape)} of {known.dtype}; expected bool {positive.shape}, as labels")
    return known.numpy()


def _of_known(
    values: Float[np.ndarray, "image concept"],
    positive: Bool[np.ndarray, "image concept"],
    known: Bool[np.ndarray, "image concept"],
) -> tuple[Float[np.ndarray, "concept"], Bool[np.ndarray, "concept"]]:
    """Return the AUROC of each concept over the images whose label is known, and for which concepts it is defined."""
    applies = np.logical_and((positive & known).any(0), (~positive & known).any(0))
    if known.all():
        return cross_auroc(values, positive, paired=True), applies
    found = [
        cross_auroc(v[rows, None], p[rows, None], paired=True)[0]
        for v, p, rows in zip(values.T, positive.T, known.T, strict=True)
    ]
    return np.array(found), applies


def _weighted(
    values: Float[np.ndarray, "image"], positive: Bool[np.ndarray, "image"], times: Float[np.ndarray, "image draw"]
) -> Float[np.ndarray, "draw"]:
    """Return the AUROC in each draw, images counted `times`; NaN where a draw has one kind only."""
    order = np.argsort(values, kind="stable")
    with_it, without = order[positive[order]], order[~positive[order]]
    reached = np.zeros((len(without) + 1, times.shape[1]))  # how many without lie among the lowest 0, 1, 2, ...
    np.cumsum(times[without], axis=0, out=reached[1:])
    lower = np.searchsorted(values[without], values[with_it], "left")
    not_higher = np.searchsorted(values[without], values[with_it], "right")
    won = np.einsum("id,id->d", times[with_it], reached[lower] + reached[not_higher]) / 2
    pairs = times[with_it].sum(0) * reached[-1]
    return np.where(pairs > 0, won / np.maximum(pairs, 1), np.nan)
