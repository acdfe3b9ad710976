"""What one forward pass gives: the raw output, class scores, an embedding, and the output of single layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from conceptlens.io.errors import InputError
from conceptlens.model.answer import Answer, Task
from conceptlens.model.detector_output import Detections
from conceptlens.model.layout import Grid
from conceptlens.model.pixel_scores import PixelScores

if TYPE_CHECKING:
    from jaxtyping import Float

Places = Detections | PixelScores


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """The result of one forward pass: what a callable target and a text encoder read.

    Args:
        model_name: The name of the model, for messages.
        output: What the module returned, untouched.
        class_scores: Scores `(image, class)`, as `meaning` reads them, where the model has them: before the softmax.
        vector: The embedding `(image, dimension)`, where the model has one.
        meaning: What the answer means, where it is known; `answer` gives the same or refuses.
        places: The candidates of a detector, with boxes in pixels of the input, or the scores of a segmentation model
            at every place; `None` for other models. `detections` and `pixel_scores` give the same or refuse.
    """

    model_name: str
    output: Any
    class_scores: Tensor | None
    vector: Tensor | None
    meaning: Answer | None
    places: Places | None = field(default=None, kw_only=True)

    @property
    def logits(self) -> Float[Tensor, "image class"]:
        """Class scores before the softmax, in the graph of the forward pass.

        Raises:
            InputError: The model has no class scores.
        """
        if self.class_scores is None:
            raise self._no_class_scores()
        return self.class_scores

    @property
    def answer(self) -> Answer:
        """What the class scores mean: their probabilities, their unit, whether the classes exclude one another.

        Raises:
            InputError: The model has no class scores.
        """
        if self.class_scores is None or self.meaning is None:
            raise self._no_class_scores()
        return self.meaning

    @property
    def embedding(self) -> Float[Tensor, "image dimension"]:
        """The vector that enters the classifier, or the output of a model that embeds, in the graph.

        Raises:
            InputError: The model has no linear classifier and does not embed.
        """
        if self.vector is None:
            raise InputError(
                f"{self.model_name} has no embedding, one vector for each image: no linear classifier was found at its "
                "end; name it with Backbone(..., classifier=...), or, for an encoder, say how the vector is read: "
                "Backbone(..., task='embedding', output=lambda found: found.last_hidden_state.mean(1)), of a map "
                ".mean((2, 3))"
            )
        return self.vector

    @property
    def detections(self) -> Detections:
        """The candidates of a detector, in the graph, with boxes in pixels of the input.

        Raises:
            InputError: The model is no detector that is known.
        """
        if not isinstance(self.places, Detections):
            raise InputError(
                f"{self.model_name} gives no detections; if it is a detector, say how it is read: "
                "Backbone(..., output=lambda found: cl.Detections(boxes, logits))"
            )
        return self.places

    @property
    def pixel_scores(self) -> Float[Tensor, "image class rows columns"]:
        """The scores of a segmentation model for every class at every place, in the graph.

        Raises:
            InputError: The model gives no such scores.
        """
        if not isinstance(self.places, PixelScores):
            raise InputError(
                f"{self.model_name} gives no scores of places (image class rows columns); if it segments, say so or "
                "how it is read: Backbone(..., task='dense') or output=lambda found: found.logits"
            )
        return self.places.scores

    @property
    def class_count(self) -> int:
        """How many classes have scores, of the image or of its places.

        Raises:
            InputError: The model has no class scores.
        """
        return self.places.scores.shape[1] if isinstance(self.places, PixelScores) else self.logits.shape[1]

    def _no_class_scores(self) -> InputError:
        if isinstance(self.places, PixelScores):
            return InputError(
                f"{self.model_name} scores classes at every place and not the whole image; ask about a part of it with "
                "cl.Region(label)"
            )
        return InputError(
            f"{self.model_name} gives no class scores (image class); ask with cl.Concept or a callable target, "
            "give a CLIP model class names with class_names= (--class-names), "
            "or say how to read scores with Backbone(..., output=)"
        )


@dataclass(frozen=True)
class LayerOutput:
    """One layer's output, kept with its graph, and how to read its cells.

    Args:
        raw: The tensor that the layer returned, in its own layout.
        grid: Where the cells of each image lie in it.
    """

    raw: Tensor
    grid: Grid

    @property
    def cells(self) -> Float[Tensor, "image channel height width"]:
        """The cells of every image, in the graph, whatever the layout of the layer."""
        return self.grid.read(self.raw)


# Names under which encoders return one vector for each image, the one to take first.
EMBEDDINGS = ("image_embeds", "image_features", "pooler_output", "last_hidden_state")


def output_tensor(
    output: Any, task: Task | None, model: str, classes: int | None = None, images: int | None = None
) -> Tensor | None:
    """Return the tensor that a model's answer is read from; refused where it could be several.

    That is the output itself, or what it calls `logits`; of an encoder its image embedding by name. Of a tuple it is
    the only tensor `(image, number)`, or the only one `(image,)`, or the only one at all.

    Args:
        output: What the module returned.
        task: What the module was trained for, where it is known.
        model: What the model is called, for messages.
        classes: How many class names there are, where there are any: the tensor that fits them is the example shown.
        images: How many images there were, where it is known: a list as long may hold one answer for each.

    Returns:
        The tensor; `None` where there is none, or none that stands out.

    Raises:
        InputError: Several tensors could be the scores.
    """
    if isinstance(output, Tensor):
        return output
    found = named_tensors(output)
    own = {path.strip(".[]'"): tensor for path, tensor in found.items()}
    for name in EMBEDDINGS if task == "embedding" else ("logits",):
        if name in own:
            return own[name]
    if not isinstance(output, (tuple, list)):
        return None  # names that nobody knows: which of them holds scores is to be said
    if type(output).__module__ == "torch.return_types":  # of topk, max, sort: scores out of the order of the classes
        raise InputError(
            f"{model} gives what torch.{type(output).__name__} returns, scores out of the order of the classes; "
            "expected those of all classes before it: leave that step out, or read them with Backbone(..., output=)"
        )
    for axes in (2, 1):
        candidates = {path: t for path, t in found.items() if t.ndim == axes and t.is_floating_point()}
        if len(candidates) > 1:
            raise _several(output, candidates, model, classes, images)
        if candidates:
            return next(iter(candidates.values()))
    return next(iter(found.values())) if len(found) == 1 else None


def unread_output(output: Any, model: str, classes: int | None, images: int | None) -> InputError:
    """Return the refusal of an output of which it is not known what to read.

    Args:
        output: What the module returned.
        model: What the model is called.
        classes: How many class names there are, where there are any.
        images: How many images there were, where it is known.
    """
    found = named_tensors(output)
    if joined := _joined(output, images):
        return _one_for_each(found, model, joined)
    if not found:
        return InputError(
            f"{model} put out {type(output).__name__}, which holds no tensor; expected scores (image, class): let its "
            "forward return them, or make them of it with Backbone(..., output=)"
        )
    how = f"lambda found: found{_example_of(found, classes)}: {_shapes_in_words(found)}"
    return InputError(f"{model} put out {type(output).__name__}; say how to read it with output={how}")


def wrong_reading(answer: object, model: str, images: int) -> InputError:
    """Return the refusal of what `Backbone(output=)` returned, where that is neither a tensor nor scores of places.

    Args:
        answer: What it returned.
        model: What the model is called.
        images: How many images there were.
    """
    joined = _joined(answer, images, least=1)
    how = f"; where it is one for each image, make one tensor of it, as {joined} does" if joined else ""
    return InputError(
        f"output= of {model} returned {type(answer).__name__}; expected a tensor, (image, class) or (image, class, "
        f"rows, columns), or cl.Detections{how}"
    )


def _several(
    output: Any, candidates: Mapping[str, Tensor], model: str, classes: int | None, images: int | None
) -> InputError:
    """Return the refusal of several tensors that may be the scores: how one is picked, or all are joined."""
    joined = _joined(output, images)
    if joined and not any(tensor.shape == (images,) for tensor in candidates.values()):
        return _one_for_each(candidates, model, joined)
    return InputError(
        f"{model} gives {_shapes_in_words(candidates)}, of which several may be the scores; pick one: "
        f"Backbone(..., output=lambda found: found{_example_of(candidates, classes)})"
        + (f", or, where there is one for each image, join them: output={joined}" if joined else "")
    )


def _one_for_each(tensors: Mapping[str, Tensor], model: str, joined: str) -> InputError:
    return InputError(
        f"{model} gives {_shapes_in_words(tensors)}, one answer for each image; join them to one tensor: "
        f"Backbone(..., output={joined})"
    )


def _joined(output: Any, images: int | None, least: int = 2) -> str:
    """Return the function that joins a list with an answer for each image to one tensor; empty for other outputs."""
    if not isinstance(output, (tuple, list)) or images is None or not least <= len(output) == images:
        return ""
    answers = [named_tensors(one) for one in output]
    shapes = [{path: tensor.shape for path, tensor in one.items()} for one in answers]
    batched = any(len(shape) > 1 and shape[0] == images for shape in shapes[0].values())  # all images are in each
    if not shapes[0] or batched or any(other != shapes[0] for other in shapes):
        return ""
    path = _example_of(answers[0], None)
    shape = shapes[0][path]
    join = "torch.cat" if len(shape) > 1 and shape[0] == 1 else "torch.stack"
    return f"lambda found: {join}([one{path} for one in found])" if path else join


def _example_of(tensors: Mapping[str, Tensor], classes: int | None) -> str:
    """Return the way to the tensor that a refusal takes as its example: one that fits the class names, or the last."""
    flat = [path for path, tensor in tensors.items() if tensor.ndim == 2] or list(tensors)
    return ([path for path in flat if tensors[path].shape[-1:] == (classes,)] or flat)[-1]


def named_tensors(output: Any, path: str = "") -> dict[str, Tensor]:
    """Return every tensor in a model's output, once, by how it is reached: `[1]`, `['scores']`, `.image_embeds`.

    Args:
        output: A tensor, or tuples, lists, mappings and objects with attributes that hold some.
        path: How the output itself is reached.
    """
    if isinstance(output, Tensor):
        return {path: output}
    if isinstance(output, Mapping):
        steps = {f".{key}" if hasattr(output, str(key)) else f"[{key!r}]": value for key, value in output.items()}
    elif isinstance(output, (tuple, list)):
        steps = {f"[{number}]": value for number, value in enumerate(output)}
    else:
        steps = {f".{name}": value for name, value in getattr(output, "__dict__", {}).items() if name[:1] != "_"}
        steps = {step: value for step, value in steps.items() if isinstance(value, (Tensor, Mapping, tuple, list))}
    found: dict[str, Tensor] = {}
    for step, value in steps.items():
        inside = named_tensors(value, path + step)
        found |= {name: t for name, t in inside.items() if all(t is not other for other in found.values())}
    return found


def _shapes_in_words(tensors: Mapping[str, Tensor]) -> str:
    """Return what tensors there are: `found[0] (2, 24), found[1] (2, 5)`; at most eight of them."""
    shown = [f"found{path} {tuple(tensor.shape)}" for path, tensor in list(tensors.items())[:8]]
    return ", ".join(shown) + (f" and {len(tensors) - 8} more" if len(tensors) > 8 else "")
