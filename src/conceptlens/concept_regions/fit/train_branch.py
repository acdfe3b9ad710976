"""Training a branch to imitate the teacher's image vectors, on cached pairs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from conceptlens.cams.concept_target import similarity
from conceptlens.concept_regions.branch import Branch
from conceptlens.concept_regions.fit.pairs import DistillationPairs, mean_and_deviation
from conceptlens.training.checkpoint import TrainingState
from conceptlens.training.loop import TrainingRun, train_network
from conceptlens.training.schedule import EpochSchedule

if TYPE_CHECKING:
    from accelerate import Accelerator
    from jaxtyping import Float, Int

    from conceptlens.model.encoders import VisionLanguage
    from conceptlens.training.loop import Gather

BATCH_VALIDATION = 2048


@dataclass(frozen=True, eq=False)
class DistillationLoss:
    """`L = L_embedding + weight L_similarity`. (CE-FAM, ICCV 2025, section 3.3.)

    `L_embedding` is the mean squared error to the teacher's vectors, not normalised; `L_similarity` that of the
    scores `S = scale <h, t> + bias` of all texts.

    Args:
        language: The teacher's vision-language pair.
        texts: Text vectors of the concepts; without them `L_similarity` is left out (the zero-shot variant).
        weight: Weight of `L_similarity`.
    """

    language: VisionLanguage
    texts: Float[Tensor, "text dimension"] | None = None
    weight: float = 0.0

    @property
    def bias(self) -> float:
        """Summand of every score of the teacher; 0 except for SigLIP."""
        return getattr(self.language, "bias", 0.0)

    def losses(
        self, student: Float[Tensor, "row dimension"], teacher: Float[Tensor, "row dimension"]
    ) -> tuple[Float[Tensor, "row"], Float[Tensor, "row"]]:
        """Return `L_embedding` and `L_similarity` of every row, before the weight.

        Args:
            student: Vectors of the branch.
            teacher: Vectors of the teacher for the same crops.
        """
        embedding = (student - teacher).square().mean(1)
        if self.texts is None or self.weight == 0:
            return embedding, torch.zeros_like(embedding)
        texts = self.texts.to(student.device)
        ours, theirs = (similarity(side, texts, self.language) + self.bias for side in (student, teacher))
        return embedding, (ours - theirs).square().mean(1)


@dataclass(frozen=True, eq=False)
class Standardisation:
    """Mean and standard deviation of the branch's inputs and of the teacher's vectors, column by column."""

    input_mean: Tensor
    input_deviation: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, pairs: DistillationPairs) -> Standardisation:
        """Measure the training rows."""
        return cls(*mean_and_deviation(pairs.features), *mean_and_deviation(pairs.vectors))

    def folded(self, branch: Branch) -> Branch:
        """Return a branch of the same function that takes plain inputs and gives plain vectors."""
        plain = copy.deepcopy(branch).double()
        linear = [part for part in plain.network if isinstance(part, nn.Linear)]
        parts = (self.input_mean, self.input_deviation, self.mean, self.deviation)
        shift, width, mean, deviation = (part.detach().cpu().double() for part in parts)
        with torch.no_grad():
            linear[0].weight.div_(width)
            linear[0].bias.sub_(linear[0].weight @ shift)
            linear[-1].weight.mul_(deviation[:, None])
            linear[-1].bias.mul_(deviation).add_(mean)
        return plain.float()

    def to(self, device: torch.device) -> Standardisation:
        """Return the same on a device."""
        return Standardisation(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class BranchTask:
    """A branch, the pairs that it is trained on, and its losses; `mixed` runs it in bfloat16 on CUDA."""

    network: Branch
    pairs: DistillationPairs
    objective: DistillationLoss
    accelerator: Accelerator
    device: torch.device
    standardisation: Standardisation | None
    mixed: bool

    @property
    def rows(self) -> int:
        """The number of training pairs."""
        return len(self.pairs.features)

    def loss(
        self, network: nn.Module, own: Int[Tensor, "own"], batch: Int[Tensor, "row"], gather: Gather, done: float
    ) -> Tensor:
        """Return this process's part of the mean loss of a batch, times the number of processes."""
        with torch.autocast(self.device.type, torch.bfloat16, self.mixed and self.device.type == "cuda"):
            made = self._vectors(network, self.pairs.features.take(own))
        embedding, similar = self.objective.losses(made, self.pairs.vectors.take(own).to(self.device))
        return (embedding + self.objective.weight * similar).sum() / len(batch) * self.accelerator.num_processes

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float]:
        """Return both losses and their weighted sum, each the mean over all validation pairs of all processes."""
        features, vectors = self.pairs.validation_features, self.pairs.validation_vectors
        total = torch.zeros(2, device=self.device)
        rows = torch.arange(self.accelerator.process_index, len(features), self.accelerator.num_processes)
        for index in rows.split(BATCH_VALIDATION):
            made = self._vectors(self.network, features.take(index))
            parts = self.objective.losses(made, vectors.take(index).to(self.device))
            total += torch.stack([part.sum() for part in parts])
        if self.accelerator.num_processes > 1:
            total = self.accelerator.reduce(total, "sum")
        embedding, similar = (total / len(features)).tolist()  # pyright: ignore[reportOperatorIssue]
        return {
            "validation": embedding + self.objective.weight * similar,
            "validation_embedding": embedding,
            "validation_similarity": similar,
        }

    def _vectors(self, network: nn.Module, features: Tensor) -> Tensor:
        features, scale = features.to(self.device), self.standardisation
        if scale is None:
            return network(features).float()
        made = network((features - scale.input_mean) / scale.input_deviation)
        return made.float() * scale.deviation + scale.mean


def train_branch(
    branch: Branch, pairs: DistillationPairs, objective: DistillationLoss, schedule: EpochSchedule, run: TrainingRun
) -> tuple[Branch, TrainingState]:
    """Train a copy of `branch`, or resume from the checkpoint in the run's folder.

    Args:
        branch: The network with its first weights; it is left as it is.
        pairs: Inputs and teacher vectors, for training and validation.
        objective: The losses.
        schedule: Batches, learning rates, epochs.
        run: Processes, folder and seed.

    Returns:
        The branch with the lowest validation loss, and the state at the end.
    """
    network = copy.deepcopy(branch)
    device = run.device or run.accelerator.device
    scale = Standardisation.of(pairs).to(device) if schedule.standardise else None
    task = BranchTask(network, pairs, objective, run.accelerator, device, scale, schedule.mixed)
    state = train_network(task, schedule, run, task.validation_losses)
    best = copy.deepcopy(branch)
    best.load_state_dict(state.best)
    return best if scale is None else scale.folded(best), state
