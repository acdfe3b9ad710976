"""What a record gives to look at and to go on with: arrays, overlays, figures, tables."""

from __future__ import annotations

import operator
import warnings
from abc import ABC
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlens.concepts.short_names import short_name, short_names
from conceptlens.io.errors import InputError, InputTypeError, near
from conceptlens.io.images import as_photo, fingerprint
from conceptlens.record.display import Tile, html_table, plot_overlays
from conceptlens.record.margin_bar import draw_margin
from conceptlens.record.source import Source
from conceptlens.render import overlay, scale_of, upsample_in_box

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from jaxtyping import Bool, Float, Shaped
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from PIL import Image
    from torch import Tensor

    from conceptlens.render import Scale

# How much of an explanation its notebook display draws.
MAX_DISPLAYED_IMAGES, MAX_DISPLAYED_QUESTIONS = 3, 4


def plain_index(value: Any) -> int | None:
    """Return an integer of Python, numpy or torch as a plain one; `None` for anything else, booleans too."""
    try:
        return None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        return None


class RecordOutputs(ABC):
    """The ways out of an `Explanation`, which has the fields."""

    maps: Float[Tensor, "image question height width"]
    scores: Float[Tensor, "image question"]
    labels: tuple[tuple[str, ...], ...]
    source: Source
    activation: str
    contributions: Float[Tensor, "image question"] | None
    contributions_low: Float[Tensor, "image question"] | None
    contributions_high: Float[Tensor, "image question"] | None
    margins: Float[Tensor, "image"] | None
    random_level: Float[Tensor, "image"] | None
    z_scores: Float[Tensor, "image question"] | None
    presence: Float[Tensor, "image question"] | None
    implied: Float[Tensor, "image question"] | None
    base_rates: Float[Tensor, "image question"] | None
    known: Bool[Tensor, "image question"] | None
    explained_classes: tuple[str, ...]
    rivals: tuple[str, ...]
    unit: str
    concept_types: tuple[tuple[str, ...], ...]
    target_kinds: tuple[str, ...]
    layers: tuple[tuple[str, ...], ...]
    diagnostics: Mapping[str, Float[Tensor, "image question"]]

    @property
    def signed(self) -> bool:
        """Whether the maps can be negative by construction."""
        return self.activation != "relu"

    @property
    def contributions_above_random(self) -> Float[Tensor, "image question"] | None:
        """Contributions by masking less what directions drawn at random get there, `contributions - random_level`.

        `None` for contributions that add up to a margin, which need no such level taken off, and where the level was
        not asked for.
        """
        if self.contributions is None or self.random_level is None or self.margins is not None:
            return None
        return self.contributions - self.random_level[:, None]

    def question_index(self, question: str | int, image: int = 0) -> int:
        """Return the index of a question, given by label, by the first name in its label, or by index.

        Args:
            question: A label, the first name in it, or an index.
            image: The image whose labels are meant.

        Raises:
            InputError: There is no such question.
            InputTypeError: It is neither a text nor an integer.
        """
        row = self.labels[image]
        if isinstance(question, str):
            short = [label.split(",")[0] for label in row]
            if question not in row and short.count(question) != 1:
                raise InputError(f"no question '{question}' in this explanation; {near(question, row, 'it has')}")
            return row.index(question) if question in row else short.index(question)
        index = plain_index(question)
        if index is None:
            raise InputTypeError(f"question is {question!r}; expected a label or an index")
        if not -len(row) <= index < len(row):
            raise InputError(f"no question {index} in this explanation; it has questions 0 to {len(row) - 1}")
        return index % len(row)

    def numpy(self) -> Float[np.ndarray, "image question height width"]:
        """Return the raw maps as an array on the CPU, in their own precision (bfloat16 as float32)."""
        maps = self.maps.detach().cpu()
        return (maps.float() if str(maps.dtype) == "torch.bfloat16" else maps).numpy()

    def upsampled(
        self, size: int | tuple[int, int] | None = None, fill: float = 0.0
    ) -> Float[Tensor, "image question rows columns"]:
        """Return the maps bilinearly enlarged to whole photos, each laid over the part of its photo that was seen.

        Args:
            size: Rows and columns of the result, or one number for both; by default the photos' own size, which for an
                observed tensor is the input's.
            fill: The value of pixels outside the part that the model saw (`ImageInfo.box`).

        Returns:
            `image question rows columns`, in the precision and on the device of `maps`.

        Raises:
            InputError: No size is given and the photos differ in size, or their size is not known.
            InputTypeError: The size is neither an integer nor two, or `fill` is no number.

        Examples:
            >>> found.upsampled().shape  # a photo of 480 x 640 pixels
            torch.Size([1, 1, 480, 640])
        """
        import torch

        rows, columns = self._size(size)
        if isinstance(fill, bool) or not isinstance(fill, (Real, np.number)):
            raise InputTypeError(f"fill is {fill!r}; expected a number, the value of pixels that the model did not see")
        fill = float(fill)
        whole = [
            upsample_in_box(one, rows, columns, info.box, fill)
            for one, info in zip(self.maps, self.source.image_info, strict=True)
        ]
        return torch.stack(whole) if whole else self.maps.new_zeros((0, self.maps.shape[1], rows, columns))

    def _size(self, size: int | tuple[int, int] | None) -> tuple[int, int]:
        """Return rows and columns of `upsampled`."""
        if size is not None:
            several = isinstance(size, Iterable) and getattr(size, "ndim", 1) > 0
            sides: Iterable[Any] = size if several else (size, size)  # pyright: ignore[reportAssignmentType]
            rows, columns, *more = [*map(plain_index, sides), None, None]
            if rows is None or columns is None or len(more) > 2:
                raise InputTypeError(f"size is {size!r}; expected an integer, or (rows, columns)")
            if rows < 1 or columns < 1:
                raise InputError(f"size is {rows} x {columns}; expected at least one pixel each way")
            return rows, columns
        sizes = {(info.height, info.width) for info in self.source.image_info}
        if len(sizes) != 1:
            raise InputError(
                f"the {len(self.maps)} photos differ in size; give size=, or take one image with .of(index)"
            )
        (own,) = sizes
        if min(own) < 1:
            raise InputError(f"the size of '{self.source.image_info[0].name}' is not known; give size=(rows, columns)")
        return own

    def overlay(
        self,
        image: Image.Image | np.ndarray | str | Path | None = None,
        question: int | str = 0,
        scale: Scale | None = None,
        opacity: float = 0.6,
    ) -> Image.Image:
        """Return one map over its photo; what the model did not see is dimmed.

        Args:
            image: The photo (PIL, uint8 `height width 3`, or a path); by default the one that was observed, while it
                is in memory or where its file still holds it.
            question: Which question, by index or label.
            scale: The values at the two ends of the colours; by default the map's own.
            opacity: 0 (bare photo) to 1.

        Returns:
            An RGB image of the photo's size.

        Raises:
            InputError: The explanation holds several images (choose one with `.of(index)`), there is no such question,
                the photo cannot be found and none was given, or another one was given than the one that was observed.

        Warns:
            UserWarning: It is not known which part of the photo the model saw; the map is laid over all of it.

        Examples:
            >>> found.of(1).overlay(question="tabby").save("tabby.png")
        """

        if len(self.maps) != 1:
            raise InputError(
                f"the explanation holds {len(self.maps)} images; choose one, such as explanation.of(0).overlay()"
            )
        info, values = self.source.image_info[0], self.maps[0, self.question_index(question)]
        photo = self.source.photo() if image is None else as_photo(image)
        if photo is None:
            raise InputError(
                f"the photo of '{info.name}' is neither in memory as a PIL image nor in a file of that name; "
                "give it, explanation.overlay(photo)"
            )
        if image is not None and info.fingerprint and fingerprint(photo) != info.fingerprint:
            raise InputError(
                f"the photo given is not '{info.name}', which the map explains: its pixels differ; "
                "give the photo that was observed, or lay the map over another picture with cl.overlay(picture, map)"
            )
        if not info.box_known:
            warnings.warn(
                f"it is not known which part of '{info.name}' the model saw, so the map may lie beside what it means; "
                "give the model transform=cl.Preprocess(...)",
                stacklevel=2,
            )
        return overlay(photo, values, scale or scale_of([values], self.signed), opacity, info.box)

    def plot(
        self, ax: Axes | Sequence[Axes] | np.ndarray | None = None
    ) -> tuple[Figure | SubFigure, Shaped[np.ndarray, "image question"]]:
        """Draw every map over its photo with matplotlib: a row for each image, a column for each question.

        A map whose photo cannot be found is drawn alone. Each map has its own scale. Nothing is shown or saved.

        Args:
            ax: Axes to draw on, one for each map; by default those of a new figure.

        Returns:
            The figure, and its axes as an array `image question`.

        Raises:
            InputError: `ax` holds another number of axes than there are maps.

        Examples:
            >>> figure, axes = found.plot()
            >>> figure.savefig("maps.png")
        """

        return plot_overlays([self._tiles(image) for image in range(len(self.maps))], ax)

    def plot_margin(self, image: int = 0, ax: Axes | None = None) -> Axes:
        """Draw the margin of one image's class as a bar that adds up, what has no name included.

        Args:
            image: The index of the image.
            ax: Axes to draw on; by default those of a new figure.

        Returns:
            The axes.

        Raises:
            InputError: The contributions do not add up to a margin, or there is no such image.

        Examples:
            >>> axes = cl.explain(observation).plot_margin()
            >>> axes.figure.savefig("margin.png")
        """
        if self.margins is None or self.contributions is None:
            raise InputError(
                "these contributions do not add up to a margin; explain with contribution='evidence' and a model with "
                "classes"
            )
        if not -len(self.maps) <= image < len(self.maps):
            raise InputError(f"no image {image} in this explanation; it holds images 0 to {len(self.maps) - 1}")
        counts, margin = self.contributions[image].nan_to_num().tolist(), float(self.margins[image])
        name = short_name(self.explained_classes[image].split(" / ", 1)[0])
        over = f" over {short_name(self.rivals[image])}" if self.rivals and self.rivals[image] else ""
        return draw_margin(ax, self.labels[image], counts, margin - sum(counts), margin, f"{name}{over}", self.unit)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each image and question.

        Returns:
            Columns `image`, `question`, `kind`, `layer`, `score`, and where the method defines them `concept_type`,
            `explained_class`, `known`, `contribution`, `contribution_low`, `contribution_high`,
            `contribution_above_random`, `presence`, `z_score`, `implied`, `base_rate` and every one of `diagnostics`.

        Raises:
            InputError: pandas is not installed.

        Examples:
            >>> found.to_frame().sort_values("score").tail()
        """
        try:
            import pandas as pd
        except ImportError:
            raise InputError("to_frame needs pandas: pip install 'conceptlens[pandas]'") from None
        images, questions = self.maps.shape[:2]
        pairs = [(i, q) for i in range(images) for q in range(questions)]
        tensors = {
            "score": self.scores,
            "contribution": self.contributions,
            "contribution_low": self.contributions_low,
            "contribution_high": self.contributions_high,
            "contribution_above_random": self.contributions_above_random,
            "presence": self.presence,
            "z_score": self.z_scores,
            "implied": self.implied,
            "base_rate": self.base_rates,
        }
        columns: dict[str, list[Any]] = {
            "image": [self.source.image_info[i].name for i, _ in pairs],
            "question": [self.labels[i][q] for i, q in pairs],
            "kind": [self.target_kinds[q] for _, q in pairs],
            "layer": [self.layers[i][q] if self.layers else self.source.layer for i, q in pairs],
        }
        if self.concept_types:
            columns["concept_type"] = [self.concept_types[i][q] for i, q in pairs]
        if self.explained_classes:
            columns["explained_class"] = [self.explained_classes[i] for i, _ in pairs]
        if self.known is not None:
            columns["known"] = self.known.flatten().tolist()
        for name, value in {**tensors, **self.diagnostics}.items():
            if value is not None:
                columns[name] = value.detach().cpu().double().flatten().tolist()
        return pd.DataFrame(columns)

    def _repr_html_(self) -> str:
        """Return a small table of overlays for notebooks, without a script."""

        images, questions = self.maps.shape[:2]
        shown = [self._tiles(i)[:MAX_DISPLAYED_QUESTIONS] for i in range(min(images, MAX_DISPLAYED_IMAGES))]
        left_out = images * questions - sum(len(row) for row in shown)
        return html_table(self._heading(), [info.name for info in self.source.image_info], shown, left_out)

    def _heading(self) -> str:
        images, questions, height, width = self.maps.shape
        same = len(set(self.labels)) == 1
        names = f" ({'; '.join(self._short_labels(0)[:3])}{'; …' * (questions > 3)})" if same else ""
        what = f"{images} image{'s' * (images != 1)}, {questions} question{'s' * (questions != 1)}"
        where = " of ".join(part for part in (self.source.layer, self.source.model) if part)
        return f"{self.source.method}{' at ' * bool(where)}{where}: {what}{names}, maps {height} x {width}"

    def _tiles(self, image: int) -> list[Tile]:
        """Return photo, map, box, sign and caption of each question about one image."""

        photo, info = self.source.photo(image), self.source.image_info[image]
        return [
            Tile(
                photo, self.maps[image, q], info.box, self.signed, label, full, float(self.scores[image, q]),
                info.box_known,
            )
            for q, (label, full) in enumerate(zip(self._short_labels(image), self.labels[image], strict=True))
        ]  # fmt: skip

    def _short_labels(self, image: int) -> list[str]:
        """Return the labels of an image's questions, classes by their short names."""
        row = self.labels[image]
        classes = list(dict.fromkeys(label for q, label in enumerate(row) if self.target_kinds[q] == "class"))
        short = dict(zip(classes, short_names(classes), strict=True))
        return [short[label] if self.target_kinds[q] == "class" else label for q, label in enumerate(row)]
