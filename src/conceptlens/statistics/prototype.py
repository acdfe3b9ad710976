"""Generalised embeddings: one vector for a label, a cluster or a component of a Gaussian mixture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conceptlens.io.errors import InputError
from conceptlens.statistics.vectors import check_vectors, encode_labels, one_hot, unit_vectors

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.statistics.vectors import Names, Vectors


@dataclass(frozen=True, eq=False)
class Prototypes:
    """Vectors that stand for many, to be weights on new images: `map = sum_channel vector * features`.

    - `vectors[prototype channel]`: in the unit of the embeddings, or means of unit vectors (which are shorter than 1,
      the more the embeddings disagree).
    - `labels`, `parts`: what each stands for; part 0 where a label has one.
    - `support[prototype]`: the number of rows that it is the mean of.
    """

    vectors: Float[np.ndarray, "prototype channel"]
    labels: tuple[str, ...]
    parts: tuple[int, ...]
    support: Float[np.ndarray, "prototype"]


def prototypes(vectors: Vectors, labels: Names, parts: Names | None = None, unit: bool = False) -> Prototypes:
    """Return the mean vector of each label, or of each part of each label.

    LoCE (IJCV 2025), generalised embeddings: the centroid of a cluster. `parts[row]` are clusters, components or
    sub-concepts; rows of a negative part, as dropped components leave them, are left out. For clusters whatever their
    labels, give the clusters as labels. `unit=True` means directions: no embedding counts for more because it is long.

    Args:
        vectors: `vectors[row channel]`.
        labels: The label of each row, by name or number.
        parts: The part of each row, a number; negative ones are left out.
        unit: Whether rows are scaled to length 1 first.

    Returns:
        One mean vector for each label or part.

    Raises:
        InputError: No row is left, or `parts` are no numbers.
    """
    rows = unit_vectors(vectors) if unit else check_vectors(vectors)
    codes, names = encode_labels(labels, len(rows))
    part = np.zeros(len(rows), np.int64) if parts is None else np.asarray(parts)
    if part.shape != (len(rows),) or part.dtype.kind not in "iu":
        raise InputError(
            f"parts have shape {part.shape} and type {part.dtype}; expected a number for each of {len(rows)} rows"
        )
    kept = part >= 0
    if not kept.any():
        raise InputError("every row's part is negative, so none is left to mean")
    found, which = np.unique(np.stack([codes, part], 1)[kept], axis=0, return_inverse=True)
    members = one_hot(which.reshape(-1), len(found))
    support = members.sum(0)
    means = members.T @ rows[kept] / support[:, None]
    return Prototypes(means, tuple(names[c] for c, _ in found), tuple(int(p) for _, p in found), support)
