"""A store of embeddings: rows go in by batches that are seen whole or not at all, and come out by filters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

from conceptlens.io.errors import InputError
from conceptlens.store import columns, lance_tables
from conceptlens.store.batch_checks import Space, by_length, check_batch, check_length, checked_vector
from conceptlens.store.embeddings import Embeddings, Nearest, condition, embeddings_of, one_of
from conceptlens.store.row import EmbeddingRow, ImageRow, LayerRow, MaskRow
from conceptlens.store.run_store import RunStore


class Store(RunStore):
    """One folder of images, embeddings, masks and runs.

    - What `append` was given is seen as a whole or not at all, by every process, and whenever the writer is killed.
      Giving the same rows again changes nothing: rows are known by their ids (see `row_id`).
    - Several processes may write and read at once. None of them may be forked from one that has used a store.
    - Every read shows what is there when it is called. Rows come in the order of their ids.

    Args:
        path: The folder.
        create: Make the folder where it is missing or empty.

    Raises:
        InputError: The folder is no store, or one in an older or a newer format; every method raises it where the
            folder cannot be read or written.
    """

    @cached_property
    def _lengths(self) -> dict[Space, int]:
        """The length of the vectors of each model, layer and mode that was written to."""
        return {}

    def append(
        self, images: Sequence[ImageRow], embeddings: Sequence[EmbeddingRow] = (), masks: Sequence[MaskRow] = ()
    ) -> None:
        """Write a batch: all that one run says of these images.

        The images are written last, and what belongs to them is shown from then on. An embedding or a mask whose id
        is there already stays as it is; an image is replaced, so that one that failed can be tried again.

        Args:
            images: The images of the batch; failed ones say why.
            embeddings: Vectors of these images.
            masks: Masks that the embeddings name.

        Raises:
            InputError: Rows do not belong together, or there is no room.
        """
        self._check_lengths(check_batch(images, embeddings, masks))
        tables = {"masks": columns.mask_columns(masks)}
        for channels, rows in by_length(embeddings).items():
            tables[columns.embeddings_table(channels)] = columns.embedding_columns(rows, channels)
        self._write(tables, images)

    def embeddings(
        self,
        layer: str | None = None,
        model: str | None = None,
        mode: str | None = None,
        concepts: Iterable[str] | None = None,
        where: str | None = None,
        run: str | None = None,
    ) -> Embeddings:
        """Return the embeddings that fit all that is given, in the order of their ids; none where none fits.

        `where` is a condition in SQL on the columns of `EmbeddingRow`: `"iou > 0.5 AND area >= 0.02"`; a column
        named like a word of SQL stands between backticks (`group`), a text between single quotes, doubled within it.

        Args:
            layer: A layer's name.
            model: A model's name.
            mode: A mode of embedding.
            concepts: Concepts by label.
            where: A condition in SQL, as above.
            run: The id of a run.

        Returns:
            Vectors, all of one length, with what is known of each.

        Raises:
            InputError: The vectors found differ in length.
        """
        return embeddings_of(self._snapshot().found(condition(layer, model, mode, concepts, where, run)).all())

    def stream(
        self,
        layer: str | None = None,
        model: str | None = None,
        mode: str | None = None,
        concepts: Iterable[str] | None = None,
        where: str | None = None,
        run: str | None = None,
        size: int = 10_000,
    ) -> Iterator[Embeddings]:
        """Yield what `embeddings` returns, batch by batch; memory holds one batch, and a number for each row.

        All rows are of the moment of the first. `compact` with a short `older_than` may end a stream that is under way.

        Args:
            layer: As in `embeddings`, and so are the other filters.
            model: A model's name.
            mode: A mode of embedding.
            concepts: Concepts by label.
            where: A condition in SQL.
            run: The id of a run.
            size: Rows of a batch.

        Returns:
            Batches of embeddings.

        Raises:
            InputError: `size` is below 1, or the vectors found differ in length.
        """
        if size < 1:
            raise InputError(f"size is {size}; expected at least 1")
        found = self._snapshot().found(condition(layer, model, mode, concepts, where, run))
        return map(embeddings_of, found.batches(size))

    def nearest(
        self,
        vector: np.ndarray,
        k: int,
        *,
        layer: str,
        model: str | None = None,
        mode: str | None = None,
        concepts: Iterable[str] | None = None,
        exclude_image: str | None = None,
        where: str | None = None,
        exact: bool = False,
    ) -> Nearest:
        """Return the at most `k` embeddings nearest to a vector by `1 - cosine`, the nearest first.

        Filters apply before the search, so `k` are found where there are that many. Vectors of zeros are near nothing.

        Args:
            vector: `[channel]`, finite and not zero.
            k: The greatest number of hits.
            layer: A layer's name.
            model: A model's name.
            mode: A mode of embedding.
            concepts: Concepts by label, to search among.
            exclude_image: The id of an image whose rows are left out, such as the one that the vector is of.
            where: A condition in SQL.
            exact: Whether every vector is compared, also where `index` has made an index.

        Returns:
            Rows and distances, the nearest first.

        Raises:
            InputError: The vector does not fit, or what is near comes from two models or modes.
        """
        query = checked_vector(vector, "the vector to search for")
        if not query.any() or k < 1:
            raise InputError(
                f"k is {k}, the vector has length {np.linalg.norm(query):g}; give k >= 1 and a vector that is not zero"
            )
        where = condition(layer, model, mode, concepts, where, exclude_image=exclude_image)
        found = self._snapshot().nearest(query, k, where, exact)
        if not found.num_rows:
            self._check_channels(layer, len(query))
        rows = embeddings_of(found)
        spaces = sorted(set(zip(rows.models, rows.modes, strict=True)))
        if len(spaces) > 1:
            several = ", ".join(f"{model} ({mode})" for model, mode in spaces)
            raise InputError(f"{layer} was searched in {several} at once; name one model and one mode")
        return Nearest(rows, found["_distance"].to_numpy().clip(0))

    def index(self, layer: str) -> bool:
        """Make or renew the index that `nearest` uses at a layer; `False` where there are too few rows to need one.

        It holds one byte for each channel. Rows written later are found without it, and taken in by `compact`.

        Args:
            layer: A layer's name.

        Returns:
            Whether there is an index now.
        """
        indexed = False
        for channels, _ in self._snapshot().columns(("id",), condition(layer, None, None, None, None)):
            opened = self._database.open_table(columns.embeddings_table(channels))
            if opened.count_rows() >= lance_tables.MIN_INDEXED_ROWS:
                from lancedb.index import IvfSq

                with lance_tables.readable_errors(self.path, "write an index to"):
                    opened.create_index("vector", config=IvfSq(distance_type="cosine"), replace=True)
                indexed = True
        return indexed

    def count(self, run: str | None = None) -> int:
        """Return how many embeddings there are, of all runs or of one; no vector is read.

        Args:
            run: The id of a run; `None` for all.

        Returns:
            How many embeddings are committed.
        """
        where = condition(None, None, None, None, None, run)
        return sum(rows.num_rows for _, rows in self._snapshot().columns(("id",), where))

    def layers(self) -> tuple[LayerRow, ...]:
        """Return what each model, layer and mode holds.

        Returns:
            A row for each, sorted by model, layer and mode.
        """
        counts: Counter[tuple[str, str, str, int]] = Counter()
        for channels, rows in self._snapshot().columns(("model", "layer", "mode")):
            for row in rows.group_by(["model", "layer", "mode"]).aggregate([([], "count_all")]).to_pylist():
                counts[row["model"], row["layer"], row["mode"], channels] += row["count_all"]
        return tuple(LayerRow(*space, rows) for space, rows in sorted(counts.items()))

    def concepts(self) -> dict[str, int]:
        """Return the concepts by name, each with the number of images that it has embeddings of.

        Returns:
            Counts of images by label, in alphabetical order.
        """
        columns = [rows.select(["concept", "image"]) for _, rows in self._snapshot().columns(("concept", "image"))]
        if not columns:
            return {}
        pairs = pa.concat_tables(columns).group_by(["concept", "image"]).aggregate([])
        return dict(sorted(Counter(pairs["concept"].to_pylist()).items()))

    def masks(self, ids: Iterable[str] | None = None) -> tuple[MaskRow, ...]:
        """Return all masks, or those with these ids, in the order of ids; ids that are not there are passed over.

        Args:
            ids: Ids of masks; `None` for all.

        Returns:
            Masks in the order of their ids.
        """
        where = None if ids is None else one_of("id", ids)
        snapshot = self._snapshot()
        return columns.mask_rows(
            snapshot.visible_masks(lance_tables.read(self.path, self._database, "masks", where=where))
        )

    def mask(self, id: str) -> np.ndarray:
        """Return the mask `[rows columns]`, bool, with an id.

        Args:
            id: The id of a mask.

        Returns:
            Bool `[rows columns]`.

        Raises:
            InputError: There is no such mask.
        """
        found = self.masks([id])
        if not found:
            raise InputError(f"no mask '{id}' in {self.path}; embeddings say the ids of theirs in `masks`")
        return found[0].mask()

    def _check_lengths(self, lengths: dict[Space, int]) -> None:
        """Check that the vectors of a layer are as long as those that are there."""
        for space, given in lengths.items():
            if space not in self._lengths:
                layer = condition(space[1], space[0], space[2], None, None)
                there = (channels for channels, _ in self._snapshot().columns(("id",), layer))
                self._lengths[space] = next(there, given)
            check_length(space, given, self._lengths[space])

    def _check_channels(self, layer: str, channels: int) -> None:
        """Refuse a vector that is not as long as those of its layer."""
        known = [row for row in self.layers() if row.layer == layer]
        if known and all(row.channels != channels for row in known):
            raise InputError(f"a vector of {channels} channels was searched at {layer}, which has {known[0].channels}")
