"""The one record every method returns: maps, the weights that made them, scores, and where they came from."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from conceptlens.io.errors import InputError, InputTypeError, near
from conceptlens.record.source import Source

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from jaxtyping import Float, Shaped
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from PIL import Image
    from torch import Tensor

    from conceptlens.record.external_maps import Images, Labels
    from conceptlens.render import Scale

# How much of an explanation its notebook display draws.
MAX_DISPLAYED_IMAGES, MAX_DISPLAYED_QUESTIONS = 3, 4


@dataclass(frozen=True, repr=False, eq=False)
class Explanation:
    """Maps for every image and question, with the weights that made them.

    The equation of every method: `maps = activation(sum over channel of weights * features)`. A *question* is one
    target fixed on the observation: one target given to `cam` is one question about every image, two targets are two,
    and so are two concepts given to `explain`. So `maps[i, q]` answers question `q` about image `i`.

    All tensors are detached and stay on the device they were made on.

    Args:
        maps: `image question height width`; raw, at the layer's own grid, never rescaled.
        weights: `image question channel (height|1) (width|1)`; `None` for a combination of layers, whose `components`
            hold their own.
        scores: `image question`; the value that each question is about (a logit, a margin, a similarity).
        labels: `labels[image][question]`; what each question is called.
        source: Model, layer, method, photos and settings.
        activation: "relu", or "identity" for maps that can be negative.
        contributions: `image question`; how much each concept counts, where the method defines it.
        z_scores: `image question`; how many standard deviations a score lies above the concept's mean over reference
            photos, where there is a reference.
        explained_classes: The class that `contributions` are about, for each image.
        concept_types: `concept_types[image][question]`, where questions are concepts of a vocabulary.
        target_kinds: What each question is about: "class", "contrast", "concept" or "custom".
        layers: `layers[image][question]`; the layer of each map, where a method chooses one for each concept.
        vectors: `image question dimension`; embeddings to compare, where a method makes them; LoCE's stand in units
            of each channel's scale, its `weights` in those of the features.
        diagnostics: `diagnostics[name][image question]`; how good each map is, where a method measures it; higher is
            better unless the method says otherwise.
        components: The explanations that this one was joined from, such as those of single layers.

    Raises:
        InputError: Two fields do not speak of the same images and questions.

    Examples:
        >>> found = cl.cam(cl.load_model().observe("cat.png"), [cl.Logit("tabby"), cl.Logit("lynx")])
        >>> found.overlay(question="lynx").save("lynx.png")
        >>> figure, axes = found.plot()
        >>> table = found.to_frame()
    """

    maps: Float[Tensor, "image question height width"]
    weights: Float[Tensor, "image question channel rows columns"] | None
    scores: Float[Tensor, "image question"]
    labels: tuple[tuple[str, ...], ...]
    source: Source
    activation: str = "relu"
    contributions: Float[Tensor, "image question"] | None = None
    z_scores: Float[Tensor, "image question"] | None = None
    explained_classes: tuple[str, ...] = ()
    concept_types: tuple[tuple[str, ...], ...] = ()
    target_kinds: tuple[str, ...] = ()
    layers: tuple[tuple[str, ...], ...] = ()
    vectors: Float[Tensor, "image question dimension"] | None = None
    diagnostics: Mapping[str, Float[Tensor, "image question"]] = field(default_factory=dict)
    components: tuple[Explanation, ...] = ()

    def __post_init__(self) -> None:
        """Check that every field speaks of the same images and questions."""
        if self.maps.ndim != 4:
            raise InputError(f"maps have {self.maps.ndim} axes; expected image question height width")
        images, questions = self.maps.shape[:2]
        values = {name: getattr(self, name) for name in ("scores", "contributions", "z_scores")}
        for name, value in {**values, **self.diagnostics}.items():
            if value is not None and tuple(value.shape) != (images, questions):
                raise InputError(f"{name} has shape {tuple(value.shape)}; expected {(images, questions)}")
        for name in ("labels", "concept_types", "layers"):
            rows = getattr(self, name)
            if (rows or name == "labels") and (len(rows) != images or any(len(row) != questions for row in rows)):
                raise InputError(f"{name} must name {questions} questions for each of {images} images")
        for name in ("weights", "vectors"):
            value = getattr(self, name)
            if value is not None and tuple(value.shape[:2]) != (images, questions):
                raise InputError(f"{name} start with {tuple(value.shape[:2])}; expected {(images, questions)}")
        if len(self.source.image_info) != images:
            raise InputError(f"source.image_info names {len(self.source.image_info)} images; the maps hold {images}")
        if not self.target_kinds:
            kind = "concept" if self.concept_types else "custom"
            object.__setattr__(self, "target_kinds", (kind,) * questions)
        if len(self.target_kinds) != questions:
            raise InputError(f"target_kinds names {len(self.target_kinds)} questions; the maps hold {questions}")

    @staticmethod
    def from_maps(
        array: np.ndarray | Tensor,
        labels: Labels,
        images: Images = None,
        *,
        scores: np.ndarray | Tensor | None = None,
        signed: bool | None = None,
        method: str = "given",
        model: str = "",
    ) -> Explanation:
        """Return maps of your own, or of another library, as a record that reports, metrics and evaluation take.

        Args:
            array: `image height width` (one question) or `image question height width`; numpy or torch, any size.
            labels: What the questions are called: one text for all images; for `image height width` also one text for
                each image; for `image question height width` one text for each question, or a list of them for each
                image.
            images: What the maps speak of, one for each image: photos (PIL, or uint8 `height width 3`), paths, names
                or `ImageInfo`; or an observation, whose maps cover the part of the photo that it saw. Other maps
                cover the whole photo, unless an `ImageInfo` has another `box`.
            scores: `image` or `image question`; by default the highest value of each map.
            signed: Whether values below zero are evidence against; by default, whether there are any.
            method: The name of the method that made the maps.
            model: The name of the model they speak of.

        Returns:
            An `Explanation` without `weights`.

        Raises:
            InputError: Shapes, labels or images do not fit each other, or a map holds NaN or infinite values.
            InputTypeError: `array` is neither numpy nor torch, or an image is none of the kinds above.

        Examples:
            >>> maps = captum.attr.LayerGradCam(model, layer).attribute(batch, target=3)  # image 1 height width
            >>> cl.Explanation.from_maps(maps, "tabby", ["a.jpg", "b.jpg"]).plot()
        """
        from conceptlens.record.external_maps import read_maps

        return Explanation(**read_maps(array, labels, images, scores, signed, method, model))

    def __repr__(self) -> str:
        """Say in one line what is explained, and of what size the maps are."""
        return f"Explanation({self._heading()})"

    def _heading(self) -> str:
        images, questions, height, width = self.maps.shape
        same = len(set(self.labels)) == 1
        names = f" ({'; '.join(self.labels[0][:3])}{'; …' * (questions > 3)})" if same else ""
        what = f"{images} image{'s' * (images != 1)}, {questions} question{'s' * (questions != 1)}"
        where = " of ".join(part for part in (self.source.layer, self.source.model) if part)
        return f"{self.source.method}{' at ' * bool(where)}{where}: {what}{names}, maps {height} x {width}"

    @property
    def signed(self) -> bool:
        """Whether the maps can be negative by construction."""
        return self.activation != "relu"

    def of(self, image: int) -> Explanation:
        """Return the explanation of one image of the batch, as a batch of one."""
        if not -len(self.maps) <= image < len(self.maps):
            raise InputError(f"no image {image} in this explanation; it holds images 0 to {len(self.maps) - 1}")
        image %= len(self.maps)
        one = slice(image, image + 1)
        tensors = {
            name: None if getattr(self, name) is None else getattr(self, name)[one]
            for name in ("maps", "weights", "scores", "contributions", "z_scores", "vectors")
        }
        rows = {name: getattr(self, name)[one] for name in ("labels", "explained_classes", "concept_types", "layers")}
        return replace(
            self,
            **tensors,
            **rows,
            diagnostics={name: value[one] for name, value in self.diagnostics.items()},
            source=self.source.of(image),
            components=tuple(part.of(image) for part in self.components),
        )

    def question_index(self, question: str | int, image: int = 0) -> int:
        """Return the index of a question, given by label, by the first name in its label, or by index."""
        row = self.labels[image]
        if isinstance(question, str):
            short = [label.split(",")[0] for label in row]
            if question not in row and short.count(question) != 1:
                raise InputError(
                    f"no question '{question}' in this explanation; it has: {near(question, row, len(row))}"
                )
            return row.index(question) if question in row else short.index(question)
        if not hasattr(question, "__index__") or isinstance(question, bool):
            raise InputTypeError(f"question is {question!r}; expected a label or an index")
        index = question.__index__()
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

        Examples:
            >>> found.upsampled().shape  # a photo of 480 x 640 pixels
            torch.Size([1, 1, 480, 640])
        """
        import torch

        from conceptlens.render import upsample_in_box

        rows, columns = self._size(size)
        whole = [
            upsample_in_box(one, rows, columns, info.box, fill)
            for one, info in zip(self.maps, self.source.image_info, strict=True)
        ]
        return torch.stack(whole) if whole else self.maps.new_zeros((0, self.maps.shape[1], rows, columns))

    def _size(self, size: int | tuple[int, int] | None) -> tuple[int, int]:
        """Return rows and columns of `upsampled`."""
        if size is not None:
            rows, columns = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
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
                or the photo cannot be found and none was given.

        Warns:
            UserWarning: It is not known which part of the photo the model saw; the map is laid over all of it.

        Examples:
            >>> found.of(1).overlay(question="tabby").save("tabby.png")
        """
        from conceptlens.record.display import as_photo
        from conceptlens.render import overlay, scale_of

        if len(self.maps) != 1:
            raise InputError(
                f"the explanation holds {len(self.maps)} images; choose one, such as explanation.of(0).overlay()"
            )
        info, values = self.source.image_info[0], self.maps[0, self.question_index(question)]
        photo = self.source.photo() if image is None else as_photo(image)
        if photo is None:
            raise InputError(
                f"the photo of '{info.name}' is neither in memory nor in a file of that name; "
                "give it, explanation.overlay(photo)"
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
        from conceptlens.record.display import plot_overlays

        return plot_overlays([self._tiles(image) for image in range(len(self.maps))], ax)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each image and question.

        Returns:
            Columns `image`, `question`, `kind`, `layer`, `score`, and where the method defines them `concept_type`,
            `explained_class`, `contribution`, `z_score` and every one of `diagnostics`.

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
        tensors = {"score": self.scores, "contribution": self.contributions, "z_score": self.z_scores}
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
        for name, value in {**tensors, **self.diagnostics}.items():
            if value is not None:
                columns[name] = value.detach().cpu().double().flatten().tolist()
        return pd.DataFrame(columns)

    def _repr_html_(self) -> str:
        """Return a small table of overlays for notebooks, without a script."""
        from conceptlens.record.display import html_table

        images, questions = self.maps.shape[:2]
        shown = [self._tiles(i)[:MAX_DISPLAYED_QUESTIONS] for i in range(min(images, MAX_DISPLAYED_IMAGES))]
        left_out = images * questions - sum(len(row) for row in shown)
        return html_table(self._heading(), [info.name for info in self.source.image_info], shown, left_out)

    def _tiles(self, image: int) -> list[Any]:
        """Return photo, map, box, sign and caption of each question about one image."""
        from conceptlens.record.display import Tile

        photo, info = self.source.photo(image), self.source.image_info[image]
        return [
            Tile(photo, self.maps[image, q], info.box, self.signed, label, float(self.scores[image, q]), info.box_known)
            for q, label in enumerate(self.labels[image])
        ]
