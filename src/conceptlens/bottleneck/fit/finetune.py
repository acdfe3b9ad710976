"""Training the network's last stage together with a fitted bottleneck: scores and concepts from one loss."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from conceptlens.bottleneck.fit.alignment_losses import ALIGNMENT_LOSSES
from conceptlens.concept_regions.branch import branch_layers
from conceptlens.io.errors import InputError
from conceptlens.model.model_input import ModelInput
from conceptlens.training.crops import network_input, random_crop
from conceptlens.training.loop import TrainingRun, train_network
from conceptlens.training.schedule import StepSchedule

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from conceptlens.bottleneck.fit.recipe import Recipe
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_set import LabelledSet
    from conceptlens.model.backbone import Backbone
    from conceptlens.training.loop import Gather

BATCH, RATE, DECAY = 32, 3e-4, 0.05
AREA = (0.5, 1.0)  # shares of the photo that crops have
SMOOTHING = 0.1  # of labels: the frozen network's classes are told apart already, and only their margins would grow


class BackboneWithBottleneck(nn.Module):
    """The network and the bottleneck as one: photos in, logits and activations out.

    Whoever looks into a network runs it frozen. Its `learning` parameters thaw once the layer `after` has run.
    """

    def __init__(self, model: Backbone, bottleneck: Bottleneck, after: str, learning: Iterable[str]) -> None:
        super().__init__()
        self.module, self.bottleneck = model.module, bottleneck
        self._model = [model]  # no module: it is not to be registered twice
        self._after, self._learning = after, tuple(learning)

    def forward(self, images: Float[Tensor, "image colour rows columns"]) -> tuple[Tensor, Tensor]:
        """Return logits and activations."""
        model = self._model[0]
        cells: dict[str, Tensor] = {}

        def keeping(name: str) -> object:
            def keep(raw: Tensor) -> Tensor:
                if name == self._after:
                    for parameter in self._learning:
                        self.module.get_parameter(parameter).requires_grad_(True)
                if name in self.bottleneck.layers:
                    cells[name] = model.layer_output(name, raw, images).cells.float()
                return raw.clone()  # an in-place operation downstream must not touch what is kept

            return keep

        names = dict.fromkeys([self._after, *self.bottleneck.layers])
        model.run(ModelInput(images), {name: keeping(name) for name in names})  # pyright: ignore[reportArgumentType]
        read = self.bottleneck(cells)
        return read.logits, read.activations


@dataclass(frozen=True, eq=False)
class FinetuneTask:
    """Cross-entropy of the logits with smoothed labels, what holds the activations to their targets, and `strength`.

    What holds them is the recipe's own alignment; with `ridge` the squared error in deviations of the targets; nothing
    for the controls, whose concepts have no targets. `strength / 2 |W|^2` is the ridge that the head was fitted with.
    Photos enter as random parts of them, half of these mirrored; `seed` and the step decide which.
    """

    network: BackboneWithBottleneck
    model: Backbone
    photos: LabelledSet
    indices: Sequence[int]
    labels: Int[Tensor, "photo"]
    targets: Float[Tensor, "photo concept"]
    loss_name: str
    strength: float = 0.0
    steps: int = 1
    seed: int = 0

    @property
    def rows(self) -> int:
        """The number of photos."""
        return len(self.indices)

    def loss(self, network: nn.Module, mine: Tensor, whole: Tensor, gather: Gather, done: float) -> Tensor:
        """Return the loss of a batch."""
        views = round(done * self.steps) * len(whole) + _batch_rows(mine, whole)
        images = torch.stack(
            [self._random_view(row, view) for row, view in zip(mine.tolist(), views.tolist(), strict=True)]
        )
        logits, made = network(images.to(self.model.parameter.device, self.model.parameter.dtype))
        logits, made = gather(logits), gather(made)
        loss = nn.functional.cross_entropy(logits, self.labels[whole].to(logits.device), label_smoothing=SMOOTHING)
        head = next(value for name, value in network.named_parameters() if name.endswith("bottleneck.head.weight"))
        loss = loss + self.strength / 2 * head.square().sum()
        wanted, spread = self.targets[whole].to(made.device), self.targets.std(0).to(made.device)
        varying = spread > 0
        if self.loss_name in ALIGNMENT_LOSSES and bool(varying.any()):
            loss = loss + ALIGNMENT_LOSSES[self.loss_name](made[:, varying], wanted[:, varying]).mean()
        elif self.loss_name == "ridge" and bool(varying.any()):
            loss = loss + ((made - wanted)[:, varying] / spread[varying]).square().mean()
        return loss

    def _random_view(self, row: int, view: int) -> Float[Tensor, "colour rows columns"]:
        index = self.indices[row]
        return network_input(
            self.model, random_crop(self.photos[index], self.photos.names[index], view, self.seed, AREA)
        )


def _batch_rows(mine: Tensor, whole: Tensor) -> Int[Tensor, "row"]:
    """Return the indices of this process's rows in the batch as it was drawn, before it was shared out."""
    processes = len(whole) // len(mine)
    rank = torch.distributed.get_rank() if processes > 1 else 0
    return torch.arange(len(mine)) * processes + rank


def finetuned(
    made: Bottleneck,
    model: Backbone,
    photos: LabelledSet,
    indices: Sequence[int],
    targets: Float[Tensor, "photo concept"],
    recipe: Recipe,
    run: TrainingRun,
) -> Bottleneck:
    """Return a bottleneck whose network's last stage was trained with it, for epochs over the photos at `indices`.

    What is trained: the weights of every layer after the second coarsest stage up to the one that is read, the concept
    vectors and the head, whose weights of 0 stay 0. The locator, normalisation statistics and all earlier layers stay.
    `targets`: of these photos.
    """
    names = last_stage(model, made.layer)
    device = model.parameter.device
    tuned, own = copy.deepcopy(made).to(device), replace(model, module=copy.deepcopy(model.module).eval())
    network = BackboneWithBottleneck(own, tuned, branch_layers(own)[-2], names)
    network.requires_grad_(False)
    for name, value in own.module.named_parameters():
        value.requires_grad_(name in names)
    tuned.weight.requires_grad_(True)
    tuned.head.requires_grad_(True)
    zero = tuned.head.weight == 0
    tuned.head.weight.register_hook(lambda gradient: gradient.masked_fill(zero, 0.0))
    labels = torch.tensor(photos.labels)[list(indices)]
    steps = StepSchedule(max(1, recipe.finetune * len(indices) // BATCH), BATCH, RATE, DECAY)
    strength = float(made.training_record["strength"])
    task = FinetuneTask(
        network, own, photos, tuple(indices), labels, targets, recipe.loss, strength, steps.steps, run.seed
    )
    train_network(task, steps, run)
    changed = {name: value.detach().cpu().clone() for name, value in own.module.state_dict().items() if name in names}
    tuned.backbone = replace(made.backbone, changed_weights=changed)
    return tuned.cpu().eval().requires_grad_(False)


def last_stage(model: Backbone, layer: str) -> frozenset[str]:
    """Return the parameters of the layers after the second coarsest stage, up to `layer`, in the order of execution.

    Raises `InputError` for a network whose layers all share one grid: it has no last stage.
    """
    stages = branch_layers(model)
    if len(stages) < 2:
        raise InputError(
            f"the layers of {model.name} have one grid, so it has no last stage to train; leave --finetune out"
        )
    order = [layer.name for layer in model.anatomy.layers]
    before, last = order.index(stages[-2]), order.index(layer)
    late = [name for name in order[before + 1 : last + 1] if not stages[-2].startswith(f"{name}.")]
    found = frozenset(
        name for name, _ in model.module.named_parameters() if any(name.startswith(f"{one}.") for one in late)
    )
    if not found:
        raise InputError(f"no layer of {model.name} after {stages[-2]} leads to {layer}; read a later --layer")
    return found
