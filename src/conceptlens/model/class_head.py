"""A linear head for classes of one's own on the embedding of a frozen network, as a folder and as a model."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.io.saved_folder import CONFIG, FolderFormat
from conceptlens.model.backbone import Backbone
from conceptlens.model.model_input import ModelInput
from conceptlens.model.model_output import output_tensor
from conceptlens.model.preprocess import Preprocess

if TYPE_CHECKING:
    from jaxtyping import Float

FOLDER_FORMAT = FolderFormat(
    "head",
    "head.safetensors",
    "conceptlens fit head",
    1,
    {
        "classes": "a list of texts",
        "model.name": "a text",
        "model.identity": "a text",
        "model.classifier": "a text",
        "model.preprocess": "an object",
        "training": "an object",
    },
)
AGREEMENT = 1e-3  # of the largest score: between a model's scores and the head of its embedding


@dataclass(frozen=True, eq=False)
class ClassHead:
    """A linear head on the embedding of one network: `logits = weight . embedding + bias`.

    Attributes:
        weight: `[class dimension]`, for the embedding as the network gives it.
        bias: `[class]`.
        class_names: What the classes are called, in the order of the logits.
        model: The name of the network.
        model_identity: The fingerprint of its weights.
        classifier: The name of its final linear layer, whose place the head takes; `None` where it embeds.
        preprocess: How photos entered it; `None` for the network's own transform.
        training: How it was fitted, and what was measured.

    Raises:
        InputError: Sizes do not fit one another, or a value is not finite.
    """

    weight: Float[Tensor, "class dimension"]
    bias: Float[Tensor, "class"]
    class_names: tuple[str, ...]
    model: str
    model_identity: str
    classifier: str | None
    preprocess: Preprocess | None
    training: dict[str, Any]

    def __post_init__(self) -> None:
        """Check sizes and values."""
        classes = len(self.class_names)
        if self.weight.ndim != 2 or tuple(self.bias.shape) != (classes,) or len(self.weight) != classes or classes < 2:
            raise InputError(
                f"a head of {classes} class names has weights {tuple(self.weight.shape)} and biases "
                f"{tuple(self.bias.shape)}; expected a row and a bias for each of at least two classes"
            )
        if not bool(self.weight.isfinite().all() and self.bias.isfinite().all()):
            raise InputError("a head's weights are not all finite; fit it again")

    @classmethod
    def of(
        cls, model: Backbone, weight: Tensor, bias: Tensor, class_names: tuple[str, ...], training: dict[str, Any]
    ) -> ClassHead:
        """Return the head of a model that its weights were fitted on.

        Args:
            model: The network, with the preprocessing of the fit.
            weight: `[class dimension]`.
            bias: `[class]`.
            class_names: What the classes are called.
            training: How it was fitted.

        Returns:
            The head, which holds the model's name, fingerprint and preprocessing.
        """
        identity = weights_fingerprint(model.module)
        return cls(weight, bias, class_names, model.name, identity, model.classifier_name, model.preprocess, training)

    def save(self, folder: str | Path) -> Path:
        """Write `head.safetensors` and, last, `config.json`, each atomically; the network itself is not in it.

        Args:
            folder: The folder, made where it is missing.

        Returns:
            The folder.
        """
        about_model = {
            "name": self.model,
            "identity": self.model_identity,
            "classifier": self.classifier or "",
            "preprocess": asdict(self.preprocess) if self.preprocess else {},
        }
        about = {
            "kind": "conceptlens head",
            "classes": list(self.class_names),
            "model": about_model,
            "training": self.training,
        }
        FOLDER_FORMAT.write(Path(folder), {"weight": self.weight, "bias": self.bias}, about)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> ClassHead:
        """Read a folder that `save` wrote.

        Args:
            folder: The folder.

        Returns:
            The head.

        Raises:
            InputError: The folder holds no head, another format, or is damaged.
        """
        place = Path(folder)
        about, tensors = FOLDER_FORMAT.read_config(place), FOLDER_FORMAT.read_weights(place)
        model = about["model"]
        view: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in model["preprocess"].items()}
        try:
            return cls(
                tensors["weight"], tensors["bias"], tuple(about["classes"]), model["name"], model["identity"],
                model["classifier"] or None, Preprocess(**view) if view else None, about["training"],
            )  # fmt: skip
        except (InputError, KeyError, TypeError) as error:
            raise FOLDER_FORMAT.damaged_error(place, f"{CONFIG} does not fit together: {error}") from None

    def on(self, model: Backbone, name: str | None = None) -> Backbone:
        """Return a model whose final linear layer is this head, with its class names and preprocessing.

        The network is copied; the one that is given is left as it is.

        Args:
            model: The network that the head was fitted on, or one of the same architecture.
            name: What the new model is called; by default as the network, with the number of classes.

        Returns:
            The model. Where the network ends in a linear layer this head takes its place, so layers keep their names;
            of one that embeds they are called `tower.NAME`, and the head is `classifier`.

        Raises:
            InputError: The network has no embedding, one of another size, or does more to it than a linear layer.
        """
        made = dataclasses.replace(model, classifier=self.classifier)
        if self.preprocess is not None:
            made = dataclasses.replace(made, transform=self.preprocess, input_size=self.preprocess.size)
        noise = _noise(made)
        dimension = made.run(noise).embedding.shape[1]
        if dimension != self.weight.shape[1]:
            raise InputError(
                f"this head reads an embedding of {self.weight.shape[1]} numbers and {model.name} gives {dimension}; "
                f"give the model that it was fitted on, {self.model}"
            )
        called = name or f"{model.name} with {len(self.class_names)} classes"
        headed = (_on_tower if made.known_task == "embedding" else _in_place)(made, self._linear(made), called)
        headed = dataclasses.replace(headed, class_names=self.class_names)
        _check_last(headed, noise)
        return headed

    def _linear(self, model: Backbone) -> nn.Linear:
        like = model.parameter
        linear = nn.Linear(self.weight.shape[1], len(self.weight), device="meta")  # draws no random numbers
        linear.weight = nn.Parameter(self.weight.to(like.device, like.dtype))
        linear.bias = nn.Parameter(self.bias.to(like.device, like.dtype))
        return linear


def check_takes_head(model: Backbone) -> None:
    """Refuse a model that no linear head decides for, before a head is fitted to its embedding.

    Args:
        model: The network.

    Raises:
        InputError: It has no embedding, or does more to it than a linear layer.
    """
    dimension = model.run(_noise(model)).embedding.shape[1]
    weight = torch.randn(2, dimension, generator=torch.Generator().manual_seed(0), device="cpu")
    ClassHead.of(model, weight, weight[:, 0], ("one", "other"), {}).on(model)


class HeadedTower(nn.Module):
    """`logits = W E(x) + b`: a network that embeds, followed by a linear head."""

    def __init__(self, tower: nn.Module, read: Callable[[Any], Any], classifier: nn.Linear) -> None:
        super().__init__()
        self.tower, self.read, self.classifier = tower, read, classifier

    def forward(self, images: Float[Tensor, "image colour rows columns"]) -> Float[Tensor, "image class"]:
        """Return the scores of every class."""
        return self.classifier(self.read(self.tower(images)))


def _in_place(model: Backbone, linear: nn.Linear, called: str) -> Backbone:
    """Return a model whose final linear layer is another one."""
    name = model.classifier_name
    if name is None or model.classifier_module is None:
        raise InputError(
            f"{model.name} does not end in a linear layer, so no head can take its place; name it with "
            "Backbone(..., classifier=...), or give the network without its classifier: Backbone(..., task='embedding')"
        )
    module = copy.deepcopy(model.module)
    module.set_submodule(name, linear)
    return dataclasses.replace(
        model, module=module.eval(), name=called, class_names=None, task="single_label", classifier=name
    )


def _on_tower(model: Backbone, linear: nn.Linear, called: str) -> Backbone:
    """Return a model that embeds, followed by a linear layer."""
    read = model.output or _embedding_in
    module = HeadedTower(copy.deepcopy(model.module), read, linear)
    layers = tuple(f"tower.{name}" for name in model.layers)
    return dataclasses.replace(
        model, module=module.eval(), name=called, layers=layers, output=None, task="single_label",
        classifier="classifier",
    )  # fmt: skip


def _embedding_in(output: Any) -> Tensor:
    """Return the embedding in what a network put out, which the model's own embedding was read from."""
    found = output_tensor(output, "embedding", "the network")
    if found is None:
        raise InputError("the network gave no tensor; expected image dimension")
    return found


def _noise(model: Backbone) -> ModelInput:
    """Return two images of noise of the size that a model takes."""
    rows, columns = model.input_size if model.preprocess is None else model.preprocess.size
    colours = 3 if model.preprocess is None else len(model.preprocess.mean)
    like = model.parameter
    drawn = torch.rand(2, colours, rows, columns, generator=torch.Generator().manual_seed(0), device="cpu")
    return ModelInput(drawn.to(like.device, like.dtype))


def _check_last(model: Backbone, noise: ModelInput) -> None:
    """Refuse a model that does more to its embedding than the head: its scores would not be the head's."""
    linear = model.classifier_module
    with torch.no_grad():
        found = model.run(noise)
        scores, wanted = found.class_scores, None if linear is None else linear(found.embedding)
    if scores is None or wanted is None or scores.shape != wanted.shape or not _agree(scores, wanted):
        raise InputError(
            f"the class scores of {model.name} are not what its last linear layer '{model.classifier_name}' makes of "
            "the embedding, so a head in its place would not decide; give the network without its classifier: "
            "Backbone(..., task='embedding', output=...)"
        )


def _agree(scores: Tensor, wanted: Tensor) -> bool:
    return float((scores - wanted).abs().max()) <= AGREEMENT * float(wanted.abs().max())
