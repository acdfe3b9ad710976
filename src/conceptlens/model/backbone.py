"""Any vision model, with what it takes to look inside: layers, preprocessing, class names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from conceptlens.concepts.class_knowledge import ClassKnowledge, imagenet_knowledge
from conceptlens.io.errors import InputError, InputTypeError, near_names
from conceptlens.model.answer import ANSWERS, Task, check_task
from conceptlens.model.answer_reader import AnswerReader
from conceptlens.model.backbone_words import input_in_words, output_in_words
from conceptlens.model.class_concepts import ClassConcepts, link_classes
from conceptlens.model.class_names import class_index, class_names_of
from conceptlens.model.containers import map_tensors
from conceptlens.model.device import move_module
from conceptlens.model.encoders import ClassifierText, VisionLanguage
from conceptlens.model.forward import LayerKeeper, Watch, forward, unwrap
from conceptlens.model.found_task import found_task
from conceptlens.model.image_batch import PhotoInput, ReadyPhoto, check_transform, stacked
from conceptlens.model.image_entry import colours_of
from conceptlens.model.known_places import (
    known_input_size,
    known_layers,
    known_reader,
    known_task,
    readable,
)
from conceptlens.model.layout import prefix_tokens
from conceptlens.model.model_input import ModelInput, first_of_batch, split_inputs
from conceptlens.model.model_output import LayerOutput, ModelOutput, Places
from conceptlens.model.observation import Observation, layer_names
from conceptlens.model.probe import Anatomy, anatomy
from conceptlens.model.ready_module import check_ready
from conceptlens.record import ImageInfo, hold_weakly

if not TYPE_CHECKING:
    from conceptlens.model.module_lock import cached_property
else:  # what readers of the source know it as
    from functools import cached_property


@dataclass(frozen=True, eq=False)
class Backbone(PhotoInput):
    """A PyTorch vision module, left as it is, with what it takes to observe it.

    Args:
        module: Any `nn.Module` that takes `image colour rows columns`; `torch.compile` and `DataParallel` wrappers
            are taken off.
        name: What the model is called in records and messages.
        layers: Names of the layers to observe; where empty, one is chosen by rule (see `probe.anatomy`) and reported
            in every record.
        transform: From an RGB photo to an input tensor `(colour, rows, columns)`. A `Preprocess` also says which part
            of the photo is seen, and so does a torchvision transform that is read as one (see `preprocess`).
        class_names: Class names in the order of the logits.
        output: From the module's raw output to `(image, class)`, to `Detections` of a detector, or to the scores
            `(image, class, rows, columns)` of a segmentation model; by default the detectors and segmentation models
            of torchvision and transformers are read by their class, of other modules the tensor, `.logits` ...
        task: What the module was trained for, and so what its numbers mean: "single_label" (softmax), "multi_label" (a
            sigmoid for each), "binary" (two classes from one logit; one name, "ill", stands for "not ill" and "ill"),
            "regression" (a quantity, no probability), "ordinal" (logits of P(y > k), CORAL), "conditional_ordinal"
            (CORN), "embedding" (no classes), "dense" (scores of every pixel), "detection". Where it is not given it is
            taken from the module's configuration or loss, and asked for where it could be several.
        classifier: The name of the final linear layer; found where not named.
        prefix_tokens: How many tokens stand before those of the patches; counted where not given.
        channels_last: Whether outputs of four axes have their channels last; found where not given.
        input_size: Rows and columns of the input, where `transform` does not say; by default those of a
            detector that brings every input to one size.
        text: The text encoder that shares the model's space; a stand-in is built where a classifier has class names.
        knowledge: What photos of classes show, which the class names are linked to; by default that of ImageNet.
        autocast: Whether the module runs under `torch.autocast` to bfloat16: faster where the processor computes in
            it, with numbers of three digits.

    Raises:
        InputError: A layer is named that the module does not have, there is no such task, class names are given for an
            embedding, or the module is a TorchScript module, has no forward, or has weights without values.
        InputTypeError: The module is no `nn.Module`, `transform` or `output` cannot be called, or `class_names` is
            no list of texts.

    Examples:
        >>> model = cl.Backbone(net, "my net", transform=cl.Preprocess((224, 224)), class_names=("cat", "dog"))
        >>> observation = model.observe("cat.png")
    """

    module: nn.Module
    name: str = "module"
    layers: tuple[str, ...] = ()
    transform: Callable[[Image.Image], Tensor] | None = None
    class_names: tuple[str, ...] | None = None
    output: Callable[[Any], Tensor | Places] | None = None
    task: Task | None = None
    classifier: str | None = None
    prefix_tokens: int | None = None
    channels_last: bool | None = None
    input_size: tuple[int, int] = (224, 224)
    text: VisionLanguage | None = None
    knowledge: ClassKnowledge | None = None
    autocast: bool = False

    def __post_init__(self) -> None:
        """Take wrappers off, and check names and functions."""
        object.__setattr__(self, "module", readable(unwrap(self.module)))
        if not isinstance(self.name, str):
            raise InputTypeError(f"name is a {type(self.name).__name__}; expected what the model is called, a text")
        check_ready(self.module, self.name)
        object.__setattr__(self, "layers", layer_names(self.layers) or known_layers(self.module))
        if self.input_size == (224, 224):
            object.__setattr__(self, "input_size", known_input_size(self.module) or self.input_size)
        if self.output is None:
            object.__setattr__(self, "output", known_reader(self.module))
        for name in self.layers:
            self.check_layer(name)
        check_transform(self.transform)
        if self.output is not None and not callable(self.output):
            raise InputTypeError(
                f"output is a {type(self.output).__name__}; expected a function from what the module returns to scores "
                "(image, class), such as output=lambda found: found.logits"
            )
        check_task(self.task)
        if self.class_names is not None:
            object.__setattr__(self, "class_names", class_names_of(self.task, self.class_names))
            if self.known_task == "binary":  # also where the module's loss says so
                object.__setattr__(self, "class_names", class_names_of("binary", self.class_names))
            if self.known_task == "embedding":
                raise InputError(f"{self.name} gives an embedding and no class scores, so class_names= names nothing")
        if self.prefix_tokens is None:
            object.__setattr__(self, "prefix_tokens", prefix_tokens(self.module))

    def __repr__(self) -> str:
        """Show the model in five lines, as far as it is known without a forward pass."""
        weights = sum(parameter.numel() for parameter in self.module.parameters())
        known = self.layers or self.__dict__.get("default_layers", ())
        like = self.parameter
        return "\n".join(
            [
                f"Backbone {self.name}",
                f"  module: {type(self.module).__name__}, {weights / 1e6:.3g} M weights, "
                f"{str(like.dtype).removeprefix('torch.')} on {like.device}",
                f"  input:  {input_in_words(self.transform, self.preprocess)}",
                f"  output: {output_in_words(self.known_task, self.class_names)}",
                f"  layers: {', '.join(known) or 'chosen at the first observation'}",
            ]
        )

    @cached_property
    def known_task(self) -> Task | None:
        """What the module was trained for: as given, or as the module says; `None` where neither says."""
        return self.task or known_task(self.module) or found_task(self.module, self._n_classes)

    @property
    def _n_classes(self) -> int | None:
        return None if self.class_names is None else len(self.class_names)

    @cached_property
    def _reader(self) -> AnswerReader:
        given = self.task is not None
        return AnswerReader(self.module, self.name, self.output, self.known_task, given, self._n_classes)

    @cached_property
    def anatomy(self) -> Anatomy:
        """What one probing forward pass on noise finds in the module; made when first needed.

        Raises:
            InputError: No layer has a grid of cells that reaches the output, or the module needs other inputs too.
        """
        rows, columns = self.input_size if self.preprocess is None else self.preprocess.size
        colours = colours_of(self.module) if self.preprocess is None else len(self.preprocess.mean)
        given = ModelInput(torch.zeros(2, colours, rows, columns, device="cpu"))
        hint = "if it takes images of another size, give Backbone(..., input_size=(rows, columns))"
        with given.explaining_failures(self.name, hint):
            return self._probe(given)

    def _probe(self, given: ModelInput) -> Anatomy:
        """Run the module on images of noise of the size of those given, with their other inputs."""
        given.check(self.module, self.name)
        like = given.of_one(0, given.images[:1].to(self.parameter.device, self.parameter.dtype))
        return anatomy(
            self.module, like, self._reader.vector, self.prefix_tokens or 0, self.channels_last,
            self.known_task == "embedding", known_as=(self.name, self.output, self.known_task, self.class_names),
        )  # fmt: skip

    @cached_property
    def default_layers(self) -> tuple[str, ...]:
        """The layers observed when none are named."""
        if self.layers:
            return self.layers
        if self.anatomy.default is None:
            raise InputError(self.anatomy.problem)
        return (self.anatomy.default,)

    @cached_property
    def classifier_name(self) -> str | None:
        """The final linear layer, whose input is the embedding; `None` where the model has none."""
        if self.known_task == "embedding":
            return None
        return self.classifier or self.anatomy.classifier

    @property
    def classifier_module(self) -> nn.Linear | None:
        """The final linear layer itself."""
        found = self.module.get_submodule(self.classifier_name) if self.classifier_name else None
        return found if isinstance(found, nn.Linear) else None

    @cached_property
    def language(self) -> VisionLanguage:
        """The pair that reads texts for this model: its own, or the stand-in built from its classifier and names.

        Raises:
            InputError: The model has neither.
        """
        if self.text is not None:
            return self.text
        linear = None if self.known_task == "regression" else self.classifier_module
        if linear is None or self.class_names is None or len(self.class_names) != linear.out_features:
            raise InputError(
                f"{self.name} has no text encoder, and none can be built without a linear classifier and class names; "
                "use an open_clip or CLIP model, or give Backbone(..., text=...)"
            )
        return ClassifierText(linear.weight.detach(), self.class_names, self.name)

    @property
    def class_concepts(self) -> ClassConcepts | None:
        """What a photo of each class shows, by the class names' links to `knowledge`; `None` without class names."""
        return self._class_concepts

    @cached_property
    def _class_concepts(self) -> ClassConcepts | None:
        if not self.class_names or not ANSWERS[self.known_task or "single_label"].rivals:
            return None
        return link_classes(self.class_names, self.knowledge or imagenet_knowledge())

    def observe(
        self,
        photos: Any = None,
        layers: str | Iterable[str] | None = None,
        titles: Sequence[str] | None = None,
        **inputs: Any,
    ) -> Observation[Backbone]:
        """Run the model once on one or several images and keep the output of `layers`.

        Args:
            photos: One image or several: paths, PIL images, uint8 arrays `(height, width, 3)` or `(3, height, width)`
                or uint8 tensors `(3, height, width)`, alone, as a list or as a batch; these are photos and are
                prepared by `transform`. Floating arrays and tensors `(image, colour, rows, columns)` or `(colour,
                rows, columns)` are taken as already preprocessed. Of `(images, labels)`, as a loader gives it, the
                images are taken; a dictionary holds them under `pixel_values`, `images`, `image`, `inputs`, `x` ...,
                and those of its other entries are passed on that the module's `forward` names, labels left out.
            layers: Names of layers; by default `default_layers`.
            titles: What the images are called in records; files name themselves.
            **inputs: Other inputs of the module by name, such as `mask=`, or the images themselves, such as
                `pixel_values=`. A tensor with one row per image is repeated where an image is run again.

        Returns:
            The observation, with the graph from the first observed layer on.

        Raises:
            InputError: No image was given, it cannot be read, or there is no such layer.
            InputTypeError: Something else was given.

        Examples:
            >>> for images, labels in loader:
            ...     observation = model.observe(images)
            ...     maps = cl.cam(observation, labels).maps
        """
        names = layer_names(layers) if layers is not None else None
        for name in names or ():
            self.check_layer(name)
        given, keyword, others = split_inputs(photos, inputs, self.module)
        images, known, loaded, references = self.read_batch(first_of_batch(given), titles)
        like = self.parameter
        moved = {name: map_tensors(value, lambda tensor: tensor.to(like.device)) for name, value in others.items()}
        whole = ModelInput(images.to(like.device, like.dtype), keyword, moved)
        return self._observe(whole, names, known, loaded, references)

    def observe_ready(
        self, photos: Sequence[ReadyPhoto], layers: Iterable[str] | None = None, beside: Iterable[str] = ()
    ) -> Observation[Backbone]:
        """Run the model once on photos that are ready, as `observe` does on photos that are not.

        Args:
            photos: Photos with their input tensors.
            layers: Names of layers; by default `default_layers`.
            beside: Names of further layers whose cells are kept without a graph (`Observation.kept_cells`).

        Returns:
            The observation, with the graph from the first observed layer on.

        Raises:
            InputError: The inputs differ in size, or there is no such layer.
        """
        names = None if layers is None else layer_names(layers)
        like, kept = self.parameter, tuple(one.photo for one in photos)
        images = stacked([one.image for one in photos]).to(like.device, like.dtype)
        infos = tuple(one.info for one in photos)
        found = self._observe(ModelInput(images), names, infos, kept, hold_weakly(kept), tuple(beside))
        return dataclasses.replace(found, larger_inputs=tuple(one.larger for one in photos))

    def _observe(
        self,
        given: ModelInput,
        layers: tuple[str, ...] | None,
        image_info: tuple[ImageInfo, ...],
        photos: tuple[Image.Image | None, ...],
        references: tuple[Callable[[], Image.Image | None], ...],
        beside: tuple[str, ...] = (),
    ) -> Observation[Backbone]:
        given.check(self.module, self.name)
        with given.explaining_failures(self.name, "give images with the colours and of the size that it takes"):
            if "anatomy" not in self.__dict__:  # the size that the module takes and what it needs are known only now
                vars(self)["anatomy"] = self._probe(given)
            asked = self.default_layers if layers is None else layers
            kept = LayerKeeper(asked)
            further = LayerKeeper(tuple(name for name in dict.fromkeys(beside) if name not in asked), graph=False)
            found = self.run(given, {**kept.watches, **further.watches}, len(given.images))
            if found.places is None:
                self._reader.check_range(self.anatomy.within_one, self.anatomy.sum_to_one)
        outputs = {name: self.layer_output(name, raw, given.images) for name, raw in kept.raw().items()}
        ungraphed = {name: self.layer_output(name, raw, given.images) for name, raw in further.raw().items()}
        return Observation(
            found.model_name, found.output, found.class_scores, found.vector, found.meaning, self, given, outputs,
            image_info, photos, references, outputs_beside=ungraphed, places=found.places,
        )  # fmt: skip

    def run(
        self, given: ModelInput, watches: Mapping[str, Watch] | None = None, rows: int | None = None
    ) -> ModelOutput:
        """Run the module once; a graph exists only where a watch begins one.

        Args:
            given: The images and the other inputs, on the device of the model.
            watches: Functions by layer name: each is called with the layer's raw output and may return a replacement.
            rows: How many rows the answer must have; not checked by default, for a watch may make a batch larger.

        Returns:
            The raw output, class scores `(image, class)` where the model does not embed, and the embedding `(image,
            dimension)` where it is known; `None` for what the model does not give.

        Raises:
            InputError: It cannot be told what the numbers mean, or there is another number of class names than of
                classes.
        """
        entered: list[Tensor] = []
        classifier = self.classifier_name
        inputs = {} if classifier is None else {classifier: lambda tensor: entered.append(tensor)}
        with torch.autocast(given.images.device.type, torch.bfloat16) if self.autocast else nullcontext():
            output = forward(self.module, given, watches or {}, inputs)
        vector = entered[-1] if entered and entered[-1].ndim == 2 else None
        return self._reader.read(output, given.images, classifier, vector, rows)

    def layer_output(self, layer: str, raw: Tensor, images: Tensor) -> LayerOutput:
        """Return the output of `layer` with how to read it: every reading of a layer goes through here.

        Args:
            layer: The name of the layer.
            raw: What it returned for `images`.
            images: The input tensor `image colour rows columns`.

        Returns:
            The output `raw` and the grid that reads it as `image channel height width`.

        Raises:
            InputError: The output has no grid of cells, or it is not clear which; the message says what to give.
        """
        size = (images.shape[0], images.shape[2], images.shape[3])
        known = self.anatomy.grids.get(layer)
        if known is None:
            why = self.anatomy.refused.get(layer, "it did not run exactly once, or gave no floating tensor")
            raise InputError(f"layer '{layer}' of {self.name} has no cells: {why}; choose another layer")
        grid = known.at(tuple(raw.shape), size)
        if grid is None:
            raise InputError(
                f"layer '{layer}' of {self.name} gave {tuple(raw.shape)} for {size[0]} images of {size[1]} x "
                f"{size[2]}, which cannot be read as '{known.order}' as at the size that it was probed with; give "
                "images of the size that the model takes"
            )
        return LayerOutput(raw, grid)

    def class_index(self, name: str | int) -> int:
        """Return the index of a class by name or index.

        Args:
            name: A class name (whole, or one of its synonyms), or an integer of Python, numpy or torch.

        Returns:
            The index of the class in the logits, from 0.

        Raises:
            InputError: No class or several have that name; near names are offered.
            InputTypeError: It is neither a name nor an integer.
        """
        return class_index(name, self.class_names, self.name)

    def class_name(self, index: int) -> str:
        """Return the full name of a class, or `class 7` where classes have no names.

        Args:
            index: Index of the class in the logits, from 0.

        Returns:
            The name as `class_names` has it, not shortened.
        """
        return self.class_names[index] if self.class_names and index < len(self.class_names) else f"class {index}"

    def to(self, *device: Any) -> Backbone:
        """Return this backbone with its module moved, as `nn.Module.to` does it: in place.

        Args:
            *device: What `nn.Module.to` takes: a device such as `"cuda"`, a floating dtype, or both.

        Returns:
            A backbone of the moved module, with everything else unchanged.

        Raises:
            InputError: There is no such device.
        """
        return dataclasses.replace(self, module=move_module(self.module, device, self.name))

    def check_layer(self, name: str) -> None:
        """Refuse a name that no layer of the module has.

        Args:
            name: As in `module.named_modules()`, such as `layer4.1`.

        Raises:
            InputError: There is no such layer; near names are offered.
        """
        try:
            self.module.get_submodule(name)
        except AttributeError:
            names = [n for n, _ in self.module.named_modules() if n]
            raise InputError(f"no layer '{name}' in {self.name}; {near_names(name, names)}") from None


def check_backbone(given: object) -> None:
    """Raise `InputTypeError` where something else than a backbone is given."""
    if not isinstance(given, Backbone):
        raise InputTypeError(
            f"a {type(given).__name__} was given as the model; expected a Backbone: cl.load_model(name) or "
            "cl.Backbone(module)"
        )
