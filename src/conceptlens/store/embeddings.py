"""What is read from a store: vectors with what is known of each, row by row; and the words to ask for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from conceptlens.io.errors import InputTypeError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Shaped

    Texts = Shaped[np.ndarray, "row"]
    Numbers = Float32[np.ndarray, "row"]

# The column of each field; texts are arrays of `str` objects.
_COLUMNS = {
    "ids": "id", "runs": "run", "images": "image", "concepts": "concept", "types": "type", "groups": "group",
    "models": "model", "layers": "layer", "modes": "mode", "masks": "mask", "ious": "iou", "losses": "loss",
    "control_ious": "control_iou", "selectivities": "selectivity", "areas": "area", "converged": "converged",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors of one length, and what is known of each: every field has a value for each row, in the same order.

    - `vectors[row channel]`: float32; without any row, there is no channel either.
    - Texts are arrays of `str`; `masks` has the ids of masks, "" where there is none.
    - Numbers are float32, `nan` where they were not measured; `EmbeddingRow` says their units.
    """

    vectors: Float32[np.ndarray, "row channel"] = field(repr=False)
    ids: Texts
    runs: Texts
    images: Texts
    concepts: Texts
    types: Texts
    groups: Texts
    models: Texts
    layers: Texts
    modes: Texts
    masks: Texts
    ious: Numbers
    losses: Numbers
    control_ious: Numbers
    selectivities: Numbers
    areas: Numbers
    converged: Bool[np.ndarray, "row"]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | np.ndarray) -> Embeddings:
        """Return these rows only: numbers of rows, or a truth for each.

        Args:
            rows: Indices of rows, or a bool for each row.

        Returns:
            These rows, in the order of the indices.
        """
        chosen = np.asarray(rows)
        chosen = chosen if chosen.dtype == np.bool_ else chosen.astype(np.intp)
        return Embeddings(**{one.name: getattr(self, one.name)[chosen] for one in fields(self)})


@dataclass(frozen=True, eq=False)
class Nearest:
    """The rows nearest to a vector, the nearest first, with `distances[row]`: 1 - cosine, from 0 to 2."""

    rows: Embeddings
    distances: Numbers

    def __len__(self) -> int:
        return len(self.rows)


def embeddings_of(table: pa.Table) -> Embeddings:
    """Return the columns of a table of embeddings as arrays."""
    vectors = table["vector"].combine_chunks()
    channels = vectors.type.list_size if table.num_rows else 0
    flat = vectors.flatten().to_numpy(zero_copy_only=False).reshape(table.num_rows, channels)
    return Embeddings(vectors=flat.copy(), **{name: table[column].to_numpy() for name, column in _COLUMNS.items()})


def quoted(text: str) -> str:
    """Return a text as it stands in a filter, whatever characters it has; raises `InputError` for other things."""
    if not isinstance(text, str):
        raise InputTypeError(f"a filter compares with {text!r} of type {type(text).__name__}; give a text")
    return "'" + text.replace("'", "''") + "'"


def one_of(column: str, texts: Iterable[str]) -> str:
    """Return the condition that a column holds one of some texts; a single text is one.

    Args:
        column: The column.
        texts: The texts; of none, no row fits.
    """
    wanted = [texts] if isinstance(texts, str) else list(dict.fromkeys(texts))
    return f"`{column}` IN ({', '.join(map(quoted, wanted))})" if wanted else "false"


def condition(
    layer: str | None,
    model: str | None,
    mode: str | None,
    concepts: Iterable[str] | None,
    where: str | None,
    run: str | None = None,
    exclude_image: str | None = None,
) -> str | None:
    """Return the filter that all of these make together, or `None` where nothing is given.

    Args:
        layer: A layer's name.
        model: A model's name.
        mode: A mode of embedding.
        concepts: Concepts by label.
        where: A condition in SQL.
        run: The id of a run.
        exclude_image: The id of an image whose rows are left out.
    """
    named = {"layer": layer, "model": model, "mode": mode, "run": run}
    parts = [f"`{column}` = {quoted(value)}" for column, value in named.items() if value is not None]
    if concepts is not None:
        parts.append(one_of("concept", concepts))
    if exclude_image is not None:
        parts.append(f"`image` != {quoted(exclude_image)}")
    if where is not None:
        parts.append(f"({where})")
    return " AND ".join(parts) or None
