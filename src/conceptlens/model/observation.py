"""One forward pass, many questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from conceptlens.concepts.short_names import short_name
from conceptlens.io.errors import InputError, InputTypeError
from conceptlens.model.forward import Watch, full_precision
from conceptlens.model.gradients import gradient_through_graph, linear_readout, through_graph
from conceptlens.model.model_input import ModelInput
from conceptlens.model.model_output import LayerOutput, ModelOutput
from conceptlens.model.replaced_cells import run_with_cells

if TYPE_CHECKING:
    from jaxtyping import Float
    from PIL import Image

    from conceptlens.model.class_concepts import ClassConcepts
    from conceptlens.record import ImageInfo


class Runnable(Protocol):
    """What an observation needs of its model, to run it again: a `Backbone` has it."""

    @property
    def name(self) -> str:
        """The name of the model, for records and messages."""
        ...

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The full names of the classes, in the order of the logits; `None` where they have none."""
        ...

    @property
    def classifier_module(self) -> nn.Linear | None:
        """The final linear layer."""
        ...

    @property
    def class_concepts(self) -> ClassConcepts | None:
        """What a photo of each class shows; `None` without class names."""
        ...

    def class_name(self, index: int) -> str:
        """Return the full name of a class."""
        ...

    def run(self, given: ModelInput, watches: Mapping[str, Watch] | None = None) -> ModelOutput:
        """Run the module once."""
        ...


Model = TypeVar("Model", bound=Runnable)


@dataclass(frozen=True, eq=False)
class Observation(ModelOutput, Generic[Model]):
    """One forward pass of a batch, ready for any number of questions.

    The graph begins at the first observed layer and lives exactly as long as this object.

    Args:
        model_name: The name of the model, for records and messages.
        output: What the module returned, untouched, in the graph.
        class_scores: Scores `(image, class)` before the softmax, in the graph; `None` where the model has none.
            `logits` gives the same or refuses.
        meaning: What the class scores mean; `None` where it is unknown. `answer` gives the same or refuses.
        vector: The embedding `(image, dimension)`, in the graph; `None` where it is unknown. `embedding` gives the
            same or refuses.
        model: The model that was run.
        given: What it was called with.
        layer_outputs: The outputs of the observed layers, by name.
        image_info: One record for each image: its name, size and the part of it that the model saw.
        photos: The upright photos; `None` where a tensor was observed.
        photo_references: Weak references to the photos, and to the PIL images that they are copies of.
        larger_inputs: The photos at other input sizes, by rows and columns, where they were prepared beforehand.
        outputs_beside: The outputs of further layers, without a graph, by name.
    """

    model: Model
    given: ModelInput
    layer_outputs: Mapping[str, LayerOutput]
    image_info: tuple[ImageInfo, ...]
    photos: tuple[Image.Image | None, ...]
    photo_references: tuple[Callable[[], Image.Image | None], ...]
    larger_inputs: tuple[Mapping[tuple[int, int], Float[Tensor, "colour rows columns"]], ...] = ()
    outputs_beside: Mapping[str, LayerOutput] = field(default_factory=dict)
    _readouts: dict[tuple[str, str], Tensor | None] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        """Show the observation in a few lines: images, layers, and the predicted classes."""
        count, colours, rows, columns = self.images.shape
        names = [info.name for info in self.image_info]
        lines = [
            f"Observation of {self.model.name}: {count} image{'s' if count > 1 else ''} of "
            f"{colours} x {rows} x {columns} on {self.images.device}",
            f"  images: {_shortened(names)}",
        ]
        for name, layer_output in self.layer_outputs.items():
            grid = layer_output.grid
            lines.append(f"  layer {name}: {grid.channels} channels, {grid.height} x {grid.width} cells")
        if self.class_scores is not None:
            best = self.class_scores.detach().argmax(1).tolist()
            lines.append(f"  predicted: {_shortened([short_name(self.model.class_name(index)) for index in best])}")
        return "\n".join(lines)

    @property
    def images(self) -> Float[Tensor, "image colour rows columns"]:
        """The input tensor, as it entered the model."""
        return self.given.images

    @property
    def layer(self) -> str:
        """The layer that is meant when none is named: the last one observed."""
        return list(self.layer_outputs)[-1]

    def layer_output(self, layer: str | None = None) -> LayerOutput:
        """Return the output of a layer, with its graph.

        Args:
            layer: An observed layer; by default the last one.

        Returns:
            The tensor that the layer returned and the grid that reads it as cells.

        Raises:
            InputError: The layer was not observed; the message says which were.
            InputTypeError: The layer is given as something else than its name.
        """
        if layer is not None and not isinstance(layer, str):
            raise InputTypeError(f"layer is {layer!r}; expected the name of a layer, such as '{self.layer}'")
        name = layer or self.layer
        if name not in self.layer_outputs:
            raise InputError(
                f"layer '{name}' was not observed; observed: {', '.join(self.layer_outputs)}; "
                f"use model.observe(..., layers=['{name}'])"
            )
        return self.layer_outputs[name]

    def feature(self, layer: str | None = None) -> Float[Tensor, "image channel height width"]:
        """Return the cells of a layer, detached from the graph, whatever its own layout.

        Args:
            layer: An observed layer; by default the last one.

        Returns:
            The features `(image, channel, height, width)`, on the model's device.

        Raises:
            InputError: The layer was not observed.
        """
        return self.layer_output(layer).cells.detach()

    def kept_cells(self, layers: Sequence[str]) -> dict[str, Float[Tensor, "image channel height width"]] | None:
        """Return the cells of layers in float32, detached; `None` where one of them was not kept by this pass.

        Args:
            layers: Names of layers, observed or kept beside (`outputs_beside`).
        """
        kept = {**self.outputs_beside, **self.layer_outputs}
        if any(name not in kept for name in layers):
            return None
        return {name: kept[name].cells.detach().float() for name in layers}

    def gradient(self, score: Tensor, layer: str | None = None) -> Float[Tensor, "image question channel height width"]:
        """Return d score / d feature at a layer.

        Args:
            score: A differentiable `(image,)` or `(image, question)` in the graph of this observation.
            layer: An observed layer; by default the last one.

        Returns:
            `(image, question, channel, height, width)`, in the unit of the score per unit of the feature.

        Raises:
            InputError: The score does not depend on the layer.
        """
        columns = score if score.ndim == 2 else score[:, None]
        cotangents = torch.eye(columns.shape[1], dtype=columns.dtype, device=columns.device)
        return self.pull(columns, cotangents.expand(columns.shape[0], -1, -1), layer)

    def pull(
        self, root: Tensor, cotangents: Float[Tensor, "image question dimension"], layer: str | None = None
    ) -> Float[Tensor, "image question channel height width"]:
        """Return the gradient of every `cotangent . root` at a layer, by batched vector-Jacobian products.

        Images are independent, so one product answers a question for all of them. Where the cells reach `root` only
        through their mean and one linear map, the closed form answers without a backward; the result is then an
        expanded view that holds one value per channel.

        Args:
            root: A tensor `(image, dimension)` in the graph: logits, an embedding, a score.
            cotangents: Directions `(image, question, dimension)`.
            layer: An observed layer; by default the last one.

        Returns:
            `(image, question, channel, height, width)`; do not write into it.

        Raises:
            InputError: `root` does not depend on the layer.
        """
        name = layer or self.layer
        matrix = self.readout(root, name)
        if matrix is None:
            return gradient_through_graph(root, cotangents, name, self.layer_output(name))
        grid = self.layer_outputs[name].grid
        with full_precision(matrix):
            own = cotangents.to(matrix.dtype)  # an embedding that is the mean of the cells itself needs no product
            weights = (own if root is self.vector else own @ matrix) / (grid.height * grid.width)
        return weights[..., None, None].expand(*weights.shape, grid.height, grid.width)

    def reaches(self, root: Tensor, layer: str | None = None) -> bool:
        """Whether the cells of a layer change `root`: the patches of a ViT's last block do not reach its class.

        Args:
            root: A tensor `(image, dimension)` in the graph.
            layer: An observed layer; by default the last one.

        Returns:
            False where the gradient of `root` is 0 at every cell, or `root` has no graph.

        Raises:
            InputError: The layer was not observed.
        """
        name = layer or self.layer
        if self.readout(root, name) is not None:
            return True
        if not root.requires_grad:
            return False
        raw = self.layer_output(name).raw
        # a random direction: scores may sum to a constant, as those of two classes from one logit do
        direction = torch.randn(root.shape[1], generator=torch.Generator().manual_seed(0)).to(root).expand_as(root)
        (gradient,) = torch.autograd.grad(root, raw, direction, retain_graph=True, materialize_grads=True)
        return bool(self.layer_output(name).grid.read(gradient).any())

    def readout(self, root: Tensor, layer: str | None = None) -> Float[Tensor, "dimension channel"] | None:
        """Return `M` where `root = M . (mean over cells of the feature) + constant`, verified, else `None`.

        The candidates are the identity and the classifier's own weights; see `gradients.linear_readout`.

        Args:
            root: The class scores or the embedding of this observation; there is no readout of other tensors.
            layer: An observed layer; by default the last one.

        Returns:
            `M[dimension channel]`, or `None` where `root` is not linear in the mean cell.
        """
        name = layer or self.layer
        kind = "logits" if root is self.class_scores else "embedding" if root is self.vector else None
        if kind is None:
            return None
        if (name, kind) not in self._readouts:
            rows = None if kind == "embedding" else self.class_rows
            with full_precision(root):
                found = None
                if kind == "embedding" or rows is not None:
                    found = linear_readout(root, rows, name, self.layer_output(name))
                self._readouts[name, kind] = found
        return self._readouts[name, kind]

    @property
    def class_rows(self) -> tuple[Float[Tensor, "class dimension"], Float[Tensor, "class"]] | None:
        """The classifier's weights and biases, a row for each class: class scores are `rows . embedding + biases`.

        `None` where the model has no linear classifier, or class scores are not linear in what it puts out.
        """
        linear = self.model.classifier_module
        if linear is None or self.meaning is None or self.meaning.read is None or not self.meaning.linear:
            return None
        bias = linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
        return self.meaning.read(linear.weight.detach().T).T, self.meaning.read(bias.detach()[None])[0]

    def pull_means(
        self, root: Tensor, cotangents: Float[Tensor, "image question dimension"], layers: Sequence[str]
    ) -> dict[str, Float[Tensor, "image question channel"]]:
        """Return the spatial mean of the gradient of every `cotangent . root` at several layers.

        One product a question serves all layers, and only the means are kept.

        Args:
            root: A tensor `(image, dimension)` in the graph: logits, an embedding, a score.
            cotangents: Directions `(image, question, dimension)`.
            layers: Observed layers.

        Returns:
            `(image, question, channel)` for each layer, by name: the channel weights of Grad-CAM.

        Raises:
            InputError: A layer was not observed, or `root` does not depend on the layers.
        """
        chosen = {name: self.layer_output(name) for name in layers}
        read = [lambda raw, grid=one.grid: grid.read(raw).flatten(3).mean(3) for one in chosen.values()]
        found = through_graph(root, cotangents, chosen, *read)
        return {name: means.transpose(0, 1) for name, means in zip(layers, found, strict=True)}

    def rerun(
        self, cells: Float[Tensor, "variant channel height width"], image: int = 0, layer: str | None = None
    ) -> ModelOutput:
        """Return the model's output for one image with the cells of a layer replaced, a variant a row.

        What lies before the layer runs once, not once a variant, wherever the model lets its batch grow there. An
        unchanged copy rides along to prove it; where it comes out changed, the whole model runs on every variant.

        Args:
            cells: The cells of each variant.
            image: The index of the image; its other inputs go with every variant.
            layer: An observed layer; by default the last one.

        Returns:
            The output, with one row per variant.

        Raises:
            InputError: The layer was not observed.
        """
        name = layer or self.layer
        return run_with_cells(self.model.run, self.given, self, image, name, self.layer_output(name), cells)

    def forward(self, images: Float[Tensor, "row colour rows columns"], image: int | None = None) -> ModelOutput:
        """Return the model's output for other input tensors: no layers kept, no graph.

        Args:
            images: Inputs: as many as were observed, or variants of one image.
            image: The index of the image that all are variants of; its other inputs go with each of them.

        Returns:
            The output, with one row per input.

        Raises:
            InputError: The model has other inputs, and it is unknown which image the variants are of; or it takes
                batches of one size alone.
        """
        if image is not None:
            return self._run(self.given.of_one(image, images))
        if self.given.others and len(images) != len(self.images):
            raise InputError(
                f"{len(images)} images were given to a model that was observed with {', '.join(self.given.others)} "
                f"for {len(self.images)} images; say which one they are variants of: forward(images, image=0)"
            )
        return self._run(self.given.with_images(images))

    def _run(self, given: ModelInput) -> ModelOutput:
        """Run the model on other inputs, and refuse an answer that is not one for each of them."""
        several = "it takes batches of one size alone, so use a rule that does not run it again, such as grad_cam"
        with given.explaining_failures(self.model.name, several):
            found = self.model.run(given)
        for root in (found.class_scores, found.vector):
            if root is not None and len(root) != len(given.images):
                rows = f"{len(root)} answer{'s' * (len(root) != 1)} for {len(given.images)} images"
                raise InputError(f"{self.model.name} gives {rows}; {several}")
        return found


def check_observation(given: object) -> None:
    """Raise `InputTypeError` where something else than an observation is given."""
    if not isinstance(given, Observation):
        raise InputTypeError(f"a {type(given).__name__} was given; expected an Observation: model.observe(images)")


def layer_names(layers: str | Iterable[str]) -> tuple[str, ...]:
    """Return one or several names of layers as a tuple.

    Args:
        layers: A name or several.

    Raises:
        InputTypeError: It is neither a text nor several.
    """
    if isinstance(layers, str):
        return (layers,)
    names = tuple(layers) if isinstance(layers, Iterable) else (layers,)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise InputTypeError(f"a layer is given as {wrong[0]!r}; expected its name, or a list of names")
    return names


def _shortened(names: Sequence[str], at_most: int = 3) -> str:
    """Return a few names and how many more there are."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
