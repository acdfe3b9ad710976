"""Where the parts of things are, learnt from properties of parts: without keypoints or boxes.

Concepts that say a property of a part ("yellow belly", "black wing") share their property words. A reader that sees a
cell's colours alone says which properties it shows, the same reader for all parts; each part has one attention, which
sees the network's deep cells. Reading where a part is attended to must give the
properties that the targets of each image name.
Only a cell with the part's own colours can do that for all classes, and deep cells encode what is there.

The loss of a batch, for images n, parts p and properties q:

    mean_np sum_q (sum_u a_np(u) g_q(colour_n(u)) - t_npq)^2            properties of the parts
    + apart * mean_(p != p') cos(a_np, a_np')                           different parts are at different cells
    + together * mean_n sum_regions mean_p |centre_np - mean centre|^2  parts of one region are near one another
    + small / 2 * |attention weights|^2                                 a location is found by what many images share

Where a few images have keypoints, attentions are trained on those alone, by cross-entropy over the cells.

This is ours. What it is worth, and what each term adds, is measured in docs/loc-cbm.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from conceptlens.bottleneck.fit.hypercolumns import FEATURES

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from conceptlens.bottleneck.fit.hypercolumns import Hypercolumns
    from conceptlens.bottleneck.fit.recipe import Recipe
    from conceptlens.training.loop import Gather


HIDDEN = 32  # units of the reader of colours
KEYPOINT_WIDTH = 0.6 / 7  # deviation of the Gaussian about a keypoint, as a share of the image


class PartDiscovery(nn.Module):
    """The attentions of all parts, and the reader that they share."""

    def __init__(self, parts: int, components: int, properties: int) -> None:
        super().__init__()
        self.attention = nn.Parameter(torch.randn(parts, components) * 0.02)
        self.reader = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, properties))

    def forward(self, columns: Tensor, readings: Tensor) -> tuple[Tensor, Tensor]:
        """Return `log a[image part cell]`, and what is read `[image part property]`."""
        logs = torch.einsum("ncu,pc->npu", columns, self.attention).log_softmax(2)
        return logs, torch.einsum("npu,nuq->npq", logs.exp(), self.reader(readings).sigmoid())


@dataclass(frozen=True, eq=False)
class PartDiscoveryTask:
    """Finding parts from the properties that concepts name, without keypoints."""

    network: nn.Module
    hypercolumns: Hypercolumns
    labels: Float[Tensor, "image part property"]
    known: Bool[Tensor, "part property"]
    regions: tuple[tuple[int, ...], ...]
    recipe: Recipe

    @property
    def rows(self) -> int:
        """The number of photos."""
        return len(self.labels)

    def loss(self, network: nn.Module, mine: Tensor, whole: Tensor, gather: Gather, done: float) -> Tensor:
        """Return the loss of the module's docstring."""
        device = _attention(network).device
        logs, read = network(
            self.hypercolumns.columns[mine].to(device).float(), self.hypercolumns.readings[mine].to(device)
        )
        logs, read = gather(logs), gather(read)
        labels, known = self.labels[whole].to(device), self.known.to(device)
        attention = logs.exp()
        parts = attention.shape[1]
        loss = ((read - labels).square() * known).sum((1, 2)).mean() / parts
        unit = nn.functional.normalize(attention, dim=2)
        alike = (torch.einsum("npu,nqu->npq", unit, unit).sum((1, 2)) - parts).mean() / (parts * (parts - 1))
        loss = loss + self.recipe.apart * alike + self.recipe.small / 2 * _attention(network).square().sum()
        centres = torch.einsum("npu,ud->npd", attention, cell_centres(self.hypercolumns.grid).to(device))
        for region in self.regions:
            own = centres[:, region]
            loss = loss + self.recipe.together * (own - own.mean(1, keepdim=True)).square().sum(2).mean()
        return loss

    @torch.no_grad()
    def whole_loss(self) -> float:
        """Return the loss over all photos, in chunks."""
        parts = torch.arange(self.rows).split(256)
        losses = [float(self.loss(self.network, chunk, chunk, lambda mine: mine, 1.0)) * len(chunk) for chunk in parts]
        return sum(losses) / self.rows


@dataclass(frozen=True, eq=False)
class GuidedAttentionTask:
    """Attentions trained to follow given ones, of other cells or of keypoints, by cross-entropy over the cells."""

    network: nn.Module
    columns: Tensor
    wanted: Float[Tensor, "image part cell"]

    @property
    def rows(self) -> int:
        """The number of photos."""
        return len(self.wanted)

    def loss(self, network: nn.Module, mine: Tensor, whole: Tensor, gather: Gather, done: float) -> Tensor:
        """Return `-mean_(n, p visible) sum_u h log a`."""
        device = _attention(network).device
        logs = gather(network(self.columns[mine].to(device).float()))
        wanted = self.wanted[whole].to(device)
        visible = wanted.sum(2) > 0
        return -(wanted * logs).sum() / visible.sum().clamp_min(1)  # 0 where no photo of the batch shows a part


class PartAttentions(nn.Module):
    """The attentions of all parts alone."""

    def __init__(self, parts: int, components: int) -> None:
        super().__init__()
        self.attention = nn.Parameter(torch.randn(parts, components) * 0.02)

    def forward(self, columns: Float[Tensor, "image component cell"]) -> Float[Tensor, "image part cell"]:
        """Return `log a`."""
        return torch.einsum("ncu,pc->npu", columns, self.attention).log_softmax(2)


def pointed_at(
    xy: Float[Tensor, "image keypoint 2"],
    visible: Bool[Tensor, "image keypoint"],
    own: Bool[Tensor, "part keypoint"],
    grid: tuple[int, int],
) -> Float[Tensor, "image part cell"]:
    """Return where each part is by its keypoints: a Gaussian about the nearest of them.

    `xy` are shares of what the network sees. A part none of whose keypoints is visible is 0 everywhere.
    """
    counted = visible[:, None] & own[None]
    indices = torch.where(visible[..., None], xy, torch.zeros_like(xy)).float()
    squared = (indices[:, :, None] - cell_centres(grid)[None, None]).square().sum(3)  # image keypoint cell
    nearest = torch.where(counted[..., None], squared[:, None], torch.inf).amin(2)
    heat = torch.exp(-nearest / (2 * KEYPOINT_WIDTH**2))
    return heat / heat.sum(2, keepdim=True).clamp_min(1e-12)


def _attention(network: nn.Module) -> Tensor:
    """Return the attention weights, through whatever wraps the network where there are several processes."""
    return next(value for name, value in network.named_parameters() if name.endswith("attention"))


def cell_centres(grid: tuple[int, int]) -> Float[Tensor, "cell 2"]:
    """Return `(x, y)` of every cell's centre, shares of the image."""
    rows, columns = grid
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    return torch.stack([x, y], 2).reshape(-1, 2)
