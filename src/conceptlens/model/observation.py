"""One forward pass, many questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from conceptlens.io.errors import InputError
from conceptlens.model.forward import Watch, forward, full_precision, map_tensors
from conceptlens.model.layout import Grid

if TYPE_CHECKING:
    from jaxtyping import Float
    from PIL import Image

    from conceptlens.model.backbone import Backbone
    from conceptlens.record import ImageInfo

# How many bytes of gradients at the layer one batched vector-Jacobian product may make. What lies behind the layer
# holds some twenty times as much meanwhile, and larger products are slower on a processor: they leave its cache.
GRADIENT_BYTES = 2 * 2**20


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """What one forward pass gave: the raw output and, where the model has them, class scores and an embedding."""

    model: Backbone
    output: Any
    class_scores: Tensor | None
    vector: Tensor | None

    @property
    def logits(self) -> Float[Tensor, "image class"]:
        """Class scores before the softmax; refused where the model has none."""
        if self.class_scores is None:
            raise InputError(
                f"{self.model.name} gives no class scores (image class); ask with cl.Concept or a callable target, "
                "give a CLIP model class names with class_names= (--class-names), "
                "or say how to read scores with Backbone(..., output=)"
            )
        return self.class_scores

    @property
    def embedding(self) -> Float[Tensor, "image dimension"]:
        """The vector that enters the classifier, or the output of a model that embeds."""
        if self.vector is None:
            raise InputError(
                f"{self.model.name} has no embedding: no linear classifier was found at its end; "
                "name it with Backbone(..., classifier=...)"
            )
        return self.vector


@dataclass(frozen=True)
class LayerOutput:
    """One layer's output, kept with its graph, and how to read its cells."""

    raw: Tensor
    grid: Grid


@dataclass(frozen=True, eq=False)
class Observation(ModelOutput):
    """One forward pass of a batch, ready for any number of questions.

    The graph begins at the first tapped layer and lives exactly as long as this object.
    """

    images: Float[Tensor, "image colour rows columns"]
    layer_outputs: Mapping[str, LayerOutput]
    image_info: tuple[ImageInfo, ...]
    photos: tuple[Image.Image | None, ...]
    _readouts: dict[tuple[str, str], Tensor | None] = field(default_factory=dict, repr=False)

    @property
    def layer(self) -> str:
        """The layer that is asked when none is named: the last one observed."""
        return list(self.layer_outputs)[-1]

    def layer_output(self, layer: str | None = None) -> LayerOutput:
        """Return the tapped output of `layer`, or say which layers were observed."""
        name = layer or self.layer
        if name not in self.layer_outputs:
            raise InputError(
                f"layer '{name}' was not observed; observed: {', '.join(self.layer_outputs)}; "
                f"use model.observe(..., layers=['{name}'])"
            )
        return self.layer_outputs[name]

    def feature(self, layer: str | None = None) -> Float[Tensor, "image channel height width"]:
        """Return the cells of `layer`, detached, whatever its own layout."""
        layer_output = self.layer_output(layer)
        return layer_output.grid.read(layer_output.raw.detach())

    def gradient(self, score: Tensor, layer: str | None = None) -> Float[Tensor, "image question channel height width"]:
        """Return d score / d feature at `layer` for a differentiable `score[image]` or `score[image question]`."""
        columns = score if score.ndim == 2 else score[:, None]
        cotangents = torch.eye(columns.shape[1], dtype=columns.dtype, device=columns.device)
        return self.pull(columns, cotangents.expand(columns.shape[0], -1, -1), layer)

    def pull(
        self, root: Tensor, cotangents: Float[Tensor, "image question dimension"], layer: str | None = None
    ) -> Float[Tensor, "image question channel height width"]:
        """Return the gradient of every `cotangent . root` at `layer`, by batched vector-Jacobian products.

        `root[image dimension]` hangs in the graph: logits, an embedding, a score. Images are independent, so one
        product answers a question for all of them. Where the cells reach `root` only through their mean and one
        linear map, the closed form answers without a backward; the result is then an expanded view that holds one
        value per channel.
        """
        name = layer or self.layer
        matrix = self.readout(root, name)
        if matrix is None:
            return self._pull_through_graph(root, cotangents, name)
        grid = self.layer_outputs[name].grid
        with full_precision(matrix):
            own = cotangents.to(matrix.dtype)  # an embedding that is the mean of the cells itself needs no product
            weights = (own if root is self.vector else own @ matrix) / (grid.height * grid.width)
        return weights[..., None, None].expand(*weights.shape, grid.height, grid.width)

    def reaches(self, root: Tensor, layer: str | None = None) -> bool:
        """Whether the cells of `layer` change `root`: the patches of a ViT's last block do not reach its class."""
        name = layer or self.layer
        if self.readout(root, name) is not None:
            return True
        if not root.requires_grad:
            return False
        raw = self.layer_output(name).raw
        (gradient,) = torch.autograd.grad(root.sum(), raw, retain_graph=True, materialize_grads=True)
        return bool(self.layer_output(name).grid.read(gradient).any())

    def readout(self, root: Tensor, layer: str | None = None) -> Float[Tensor, "dimension channel"] | None:
        """Return `M` where `root = M . (mean over cells of the feature) + constant`, verified here, else `None`.

        The candidates are the identity and the classifier's own weights. One counts only if it reproduces the values
        of `root` and its gradient in a random direction, to 1e-5 of the largest entry.
        """
        name = layer or self.layer
        kind = "logits" if root is self.class_scores else "embedding" if root is self.vector else None
        if kind is None:
            return None
        if (name, kind) not in self._readouts:
            with full_precision(root):
                self._readouts[name, kind] = self._find_readout(root, name)
        return self._readouts[name, kind]

    def _find_readout(self, root: Tensor, layer: str) -> Tensor | None:
        layer_output = self.layer_output(layer)
        mean = layer_output.grid.read(layer_output.raw.detach()).flatten(2).mean(2)
        matrix, constant = self._readout_candidate(root, mean)
        if matrix is None or root.dtype not in (torch.float32, torch.float64):
            return None
        if not _close(mean @ matrix.T + constant, root.detach()):
            return None
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(root.shape[1], generator=generator).to(root)
        exact = self._pull_through_graph(root, direction.expand(root.shape[0], 1, -1), layer)
        closed = (direction @ matrix / (layer_output.grid.height * layer_output.grid.width))[None, None, :, None, None]
        return matrix if _close(closed.expand_as(exact), exact) else None

    def _readout_candidate(self, root: Tensor, mean: Tensor) -> tuple[Tensor | None, Tensor | float]:
        if root is self.vector:
            same = root.shape == mean.shape
            return (torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device) if same else None), 0.0
        linear = self.model.classifier_module
        if linear is None or tuple(linear.weight.shape) != (root.shape[1], mean.shape[1]):
            return None, 0.0
        return linear.weight.detach(), 0.0 if linear.bias is None else linear.bias.detach()

    def _pull_through_graph(self, root: Tensor, cotangents: Tensor, layer: str) -> Tensor:
        layer_output = self.layer_output(layer)
        (found,) = self._products(root, cotangents, [layer], lambda gradient: gradient)
        return layer_output.grid.read(found).transpose(0, 1)

    def pull_means(
        self, root: Tensor, cotangents: Float[Tensor, "image question dimension"], layers: Sequence[str]
    ) -> dict[str, Float[Tensor, "image question channel"]]:
        """Return the spatial mean of the gradient of every `cotangent . root` at several layers.

        One product a question serves all layers, and only the means are kept.
        """
        grids = {name: self.layer_output(name).grid for name in layers}
        read = {name: (lambda raw, grid=grid: grid.read(raw).flatten(3).mean(3)) for name, grid in grids.items()}
        found = self._products(root, cotangents, list(layers), *read.values())
        return {name: means.transpose(0, 1) for name, means in zip(layers, found, strict=True)}

    def _products(
        self, root: Tensor, cotangents: Tensor, layers: list[str], *read: Callable[[Tensor], Tensor]
    ) -> list[Tensor]:
        """Return what `read` makes of the gradients at each of `layers`, `question image ...`, chunk by chunk."""
        if not root.requires_grad:
            raise InputError(
                f"no gradient reaches layer '{layers[0]}': the answer does not depend on it, or the model turns "
                "gradients off after it; choose another layer"
            )
        raws = [self.layer_output(name).raw for name in layers]
        by_question = cotangents.to(root.dtype).transpose(0, 1)
        at_once = max(1, GRADIENT_BYTES // max(1, max(raw.numel() * raw.element_size() for raw in raws)))
        with full_precision(root):
            chunks = [
                [reader(gradient) for reader, gradient in zip(read, _products(root, raws, chunk), strict=True)]
                for chunk in by_question.split(at_once)
            ]
        return [torch.cat(parts) for parts in zip(*chunks, strict=True)]

    def rerun(
        self, cells: Float[Tensor, "variant channel height width"], image: int = 0, layer: str | None = None
    ) -> ModelOutput:
        """Return the model's answers for one image with the cells of `layer` replaced, a variant a row.

        What lies before the layer runs once, not once a variant, wherever the model lets its batch grow there. An
        unchanged copy rides along to prove it; where it comes out changed, the whole model runs on every variant.
        """
        name = layer or self.layer
        grid = self.layer_output(name).grid
        control = self.feature(name)[image : image + 1]
        variants = torch.cat([control, cells.to(control)])
        one = self.images[image : image + 1]

        def replace(raw: Tensor) -> Tensor:
            return grid.write(grid.repeat(raw, len(variants)) if raw_images(raw) == 1 else raw, variants)

        def raw_images(raw: Tensor) -> int:
            return raw.shape[1 if grid.order == "token image channel" else 0]

        try:
            answer = ask(self.model, one, {name: replace})
            if self._control_holds(answer, image, len(variants)):
                return _without_control(answer, len(variants))
        except RuntimeError:  # a shape taken from the batch before the layer: the batch cannot grow there
            pass
        answer = ask(self.model, one.expand(len(variants), -1, -1, -1), {name: replace})
        return _without_control(answer, len(variants))

    def _control_holds(self, answer: ModelOutput, image: int, variants: int) -> bool:
        pairs = [(answer.class_scores, self.class_scores), (answer.vector, self.vector)]
        return all(
            new is not None and new.shape[0] == variants and _close(new[0], old[image].detach(), 1e-3)
            for new, old in pairs
            if old is not None
        )

    def forward(self, images: Float[Tensor, "image colour rows columns"]) -> ModelOutput:
        """Return the model's plain answers for other input tensors: no taps, no graph."""
        return ask(self.model, images, {})


def ask(model: Backbone, images: Tensor, watches: Mapping[str, Watch]) -> ModelOutput:
    """Run `model` on a batch and return what it answers; a graph exists only where a watch begins one."""
    entered: list[Tensor] = []
    classifier = model.classifier_name
    inputs = {} if classifier is None else {classifier: lambda tensor: entered.append(tensor)}
    output = forward(model.module, images, watches, inputs)
    scores, vector = model.read(output, entered[-1] if entered else None)
    return ModelOutput(model, output, scores, vector)


def observe(
    model: Backbone,
    images: Tensor,
    layers: tuple[str, ...],
    image_info: tuple[ImageInfo, ...],
    photos: tuple[Image.Image | None, ...],
) -> Observation:
    """Run `model` once on `images[image colour rows columns]`, keeping the output of every layer named."""
    raw: dict[str, Tensor] = {}

    def keep(name: str) -> Watch:
        def watch(tensor: Tensor) -> Tensor:
            if name in raw:
                raise InputError(f"layer '{name}' runs more than once in one forward pass; choose one that runs once")
            with torch.enable_grad():
                raw[name] = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
                return raw[name].clone()  # an in-place operation downstream must not touch what is kept

        return watch

    answer = ask(model, images, {name: keep(name) for name in layers})
    size = (images.shape[0], images.shape[2], images.shape[3])
    missing = [name for name in layers if name not in raw]
    if missing:
        raise InputError(f"layer '{missing[0]}' gave no tensor in this forward pass; choose another layer")
    layer_outputs = {name: LayerOutput(raw[name], model.grid_of(raw[name].shape, size, name)) for name in layers}
    return Observation(
        answer.model, answer.output, answer.class_scores, answer.vector, images, layer_outputs, image_info, photos
    )


def _products(root: Tensor, raws: Sequence[Tensor], cotangents: Tensor) -> list[Tensor]:
    """Vector-Jacobian products of `root` at each of `raws` for `cotangents[question image dimension]`."""
    if len(cotangents) == 1:
        gradients = torch.autograd.grad(root, raws, cotangents[0], retain_graph=True, materialize_grads=True)
        return [gradient[None] for gradient in gradients]
    return list(
        torch.autograd.grad(root, raws, cotangents, retain_graph=True, is_grads_batched=True, materialize_grads=True)
    )


def _without_control(answer: ModelOutput, rows: int) -> ModelOutput:
    """Return `answer` less its first row, in its raw output too."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor[1:] if tensor.ndim and len(tensor) == rows else tensor

    return ModelOutput(
        answer.model, *(map_tensors(part, cut) for part in (answer.output, answer.class_scores, answer.vector))
    )


def _close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether two tensors differ by at most `tolerance` of the largest entry."""
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1e-30))
