"""Where the parts of things are, learnt from what is said of them: no keypoint, no box.

Concepts that say a property of a part ("yellow belly", "black wing") share their property words. A reader that sees a
cell's colours alone says which properties it shows, the same reader for all parts; each part has one attention, which
sees the network's deep cells. Reading where a part is attended to must give what is said of that part in each image.
Only a place with the part's own colours can do that for all classes, and deep cells know a place by what is there.

The loss of a batch, for images n, parts p and properties q:

    mean_np sum_q (sum_u a_np(u) g_q(colour_n(u)) - t_npq)^2            what is said of the parts
    + apart * mean_(p != p') cos(a_np, a_np')                           different parts are at different places
    + together * mean_n sum_regions mean_p |centre_np - mean centre|^2  parts of one region are near one another
    + small / 2 * |attention weights|^2                                 a place is known by what many images share

Where a few images have keypoints, attentions are trained on those alone, by cross-entropy over the cells.

This is ours. What it is worth, and what each term adds, is measured in docs/loc-cbm.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from conceptlens.concept.bottleneck.locator import resized
from conceptlens.error import InputError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from conceptlens.cells import CellSource
    from conceptlens.fit.steps import Gather
    from conceptlens.text.concept_set import BottleneckConcept

COMPONENTS = 64  # principal components of each layer that an attention sees


@dataclass(frozen=True)
class Words:
    """What concepts say of parts, as a table.

    - `parts`, `properties`: their names; only properties said of at least two parts are read.
    - `place[concept]`: `(part, property)` of each concept that takes part, by the concept's number.
    - `regions`: for each region of several parts, their numbers.
    """

    parts: tuple[str, ...]
    properties: tuple[str, ...]
    place: Mapping[int, tuple[int, int]]
    regions: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, concepts: Sequence[BottleneckConcept]) -> Words:
        """Read the structure of concepts; refused where there is none to learn from."""
        said = [(i, c.part, (c.kind, c.property)) for i, c in enumerate(concepts) if c.part and c.property]
        parts = tuple(dict.fromkeys(c.part for c in concepts if c.part))
        spoken: dict[tuple[str | None, str | None], set[str | None]] = {}
        for _, part, word in said:
            spoken.setdefault(word, set()).add(part)
        words = tuple(word for word, of in spoken.items() if len(of) > 1)
        if len(parts) < 2 or not words:
            raise InputError(
                f"parts are found where concepts say one property of several parts ('yellow belly', 'yellow wing'); "
                f"these name {len(parts)} parts and {len(words)} shared properties; use locator='peaks'"
            )
        place = {i: (parts.index(str(part)), words.index(word)) for i, part, word in said if word in words}
        homes: dict[str, list[int]] = {}
        for concept in concepts:
            if concept.part and concept.region:
                homes.setdefault(concept.region, []).append(parts.index(concept.part))
        regions = tuple(tuple(sorted(set(home))) for home in homes.values() if len(set(home)) > 1)
        return cls(parts, tuple(str(word[1]) for word in words), place, regions)

    def told(self, targets: Float[Tensor, "image concept"]) -> tuple[Tensor, Tensor]:
        """Return `t[image part property]`, and which pairs some concept speaks of, from targets from 0 to 1."""
        table = torch.zeros(len(targets), len(self.parts), len(self.properties))
        times = torch.zeros(table.shape[1:])
        for concept, (part, word) in self.place.items():  # of several, such as upper and under tail, the mean
            table[:, part, word] += targets[:, concept]
            times[part, word] += 1
        return table / times.clamp_min(1), times > 0


@dataclass(frozen=True, eq=False)
class Projection:
    """The principal components of a layer's cells, brought to one scale: `(F - mean) basis / scale`."""

    mean: Tensor
    basis: Tensor
    scale: float

    def __call__(self, cells: Float[Tensor, "image channel rows columns"]) -> Tensor:
        """Return the components of cells."""
        centred = cells - self.mean[None, :, None, None]
        return torch.einsum("nchw,ck->nkhw", centred, self.basis) / self.scale


@dataclass(frozen=True, eq=False)
class Hypercolumns:
    """What the attentions see in a sample of photos: components of several layers on one grid, and colours.

    - `columns[image component cell]`, half precision; `readings[image cell 9]`: colours, squares and products.
    - `projections`: how each layer's components were made, so that weights can be given back in its own channels.
    """

    columns: Tensor
    readings: Float[Tensor, "image cell feature"]
    projections: Mapping[str, Projection]
    places: Int[Tensor, "image"]
    grid: tuple[int, int]

    def weights(self, attention: Float[Tensor, "part component"]) -> list[Float[Tensor, "part channel"]]:
        """Return attention weights in the layers' own channels; a softmax over cells does not see the constant."""
        found, start = [], 0
        for projection in self.projections.values():
            width = projection.basis.shape[1]
            found.append(attention[:, start : start + width] @ projection.basis.T / projection.scale)
            start += width
        return found


def hypercolumns(
    source: CellSource, places: Sequence[int], components: int = COMPONENTS, layers: Sequence[str] | None = None
) -> Hypercolumns:
    """Return what attentions see in photos of a set; two passes over them, one photo batch in memory at a time."""
    projections = _projections(source, places, components, source.layers if layers is None else layers)
    columns, readings, kept = [], [], []
    for batch in source.batches(places):
        parts = [resized(make(batch.cells[name]), source.grid) for name, make in projections.items()]
        columns.append(torch.cat(parts, 1).flatten(2).half())
        readings.append(_colour_features(batch.colours.flatten(2).transpose(1, 2)))
        kept.append(batch.places)
    if not columns:
        raise InputError("no photo could be read; give photos that open (JPEG, PNG, WebP ...)")
    seen = torch.cat(readings)
    deviation = seen.std((0, 1), keepdim=True).clamp_min(1e-6)
    return Hypercolumns(
        torch.cat(columns),
        (seen - seen.mean((0, 1), keepdim=True)) / deviation,
        projections,
        torch.cat(kept),
        source.grid,
    )


@dataclass(frozen=True)
class Weights:
    """The weights of the terms of the loss."""

    apart: float = 0.1
    together: float = 3.0
    small: float = 0.01


class Discovery(nn.Module):
    """The attentions of all parts, and the reader that they share."""

    def __init__(self, parts: int, components: int, properties: int, features: int = 9, hidden: int = 32) -> None:
        super().__init__()
        self.attention = nn.Parameter(torch.randn(parts, components) * 0.02)
        self.reader = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, properties))

    def forward(self, columns: Tensor, readings: Tensor) -> tuple[Tensor, Tensor]:
        """Return `log a[image part cell]`, and what is read `[image part property]`."""
        logs = torch.einsum("ncu,pc->npu", columns, self.attention).log_softmax(2)
        return logs, torch.einsum("npu,nuq->npq", logs.exp(), self.reader(readings).sigmoid())


@dataclass(frozen=True, eq=False)
class DiscoveryTask:
    """Finding parts from what is said of them alone."""

    network: nn.Module
    seen: Hypercolumns
    told: Float[Tensor, "image part property"]
    known: Bool[Tensor, "part property"]
    regions: tuple[tuple[int, ...], ...]
    weights: Weights = Weights()

    @property
    def rows(self) -> int:
        """The number of photos."""
        return len(self.told)

    def loss(self, network: nn.Module, mine: Tensor, whole: Tensor, gather: Gather, done: float) -> Tensor:
        """Return the loss of the module's docstring."""
        device = _attention(network).device
        logs, read = network(self.seen.columns[mine].to(device).float(), self.seen.readings[mine].to(device))
        logs, read = gather(logs), gather(read)
        told, known = self.told[whole].to(device), self.known.to(device)
        attention = logs.exp()
        parts = attention.shape[1]
        loss = ((read - told).square() * known).sum((1, 2)).mean() / parts
        unit = nn.functional.normalize(attention, dim=2)
        alike = (torch.einsum("npu,nqu->npq", unit, unit).sum((1, 2)) - parts).mean() / (parts * (parts - 1))
        loss = loss + self.weights.apart * alike + self.weights.small / 2 * _attention(network).square().sum()
        centres = torch.einsum("npu,ud->npd", attention, cell_centres(self.seen.grid).to(device))
        for region in self.regions:
            own = centres[:, region]
            loss = loss + self.weights.together * (own - own.mean(1, keepdim=True)).square().sum(2).mean()
        return loss

    @torch.no_grad()
    def whole_loss(self) -> float:
        """Return the loss over all photos, in chunks."""
        parts = torch.arange(self.rows).split(256)
        losses = [float(self.loss(self.network, chunk, chunk, lambda mine: mine, 1.0)) * len(chunk) for chunk in parts]
        return sum(losses) / self.rows


@dataclass(frozen=True, eq=False)
class GuidedTask:
    """Attentions that are told where parts are: by other attentions, or by keypoints. Cross-entropy over the cells."""

    network: nn.Module
    columns: Tensor
    wanted: Float[Tensor, "image part cell"]

    @property
    def rows(self) -> int:
        """The number of photos."""
        return len(self.wanted)

    def loss(self, network: nn.Module, mine: Tensor, whole: Tensor, gather: Gather, done: float) -> Tensor:
        """Return `-mean_(n, p told) sum_u h log a`."""
        device = _attention(network).device
        logs = gather(network(self.columns[mine].to(device).float()))
        wanted = self.wanted[whole].to(device)
        told = wanted.sum(2) > 0
        return -(wanted * logs).sum() / told.sum().clamp_min(1)  # 0 where no photo of the batch shows a part


class Attentions(nn.Module):
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
    width: float = 0.6 / 7,
) -> Float[Tensor, "image part cell"]:
    """Return where each part's keypoints say it is: a Gaussian about the nearest of them, `width` a share of the image.

    `xy` are shares of what the network sees. A part none of whose keypoints is visible is 0 everywhere.
    """
    seen = visible[:, None] & own[None]
    places = torch.where(visible[..., None], xy, torch.zeros_like(xy)).float()
    squared = (places[:, :, None] - cell_centres(grid)[None, None]).square().sum(3)  # image keypoint cell
    nearest = torch.where(seen[..., None], squared[:, None], torch.inf).amin(2)
    heat = torch.exp(-nearest / (2 * width**2))
    return heat / heat.sum(2, keepdim=True).clamp_min(1e-12)


def _attention(network: nn.Module) -> Tensor:
    """Return the attention weights, through whatever wraps the network where there are several processes."""
    return next(value for name, value in network.named_parameters() if name.endswith("attention"))


def cell_centres(grid: tuple[int, int]) -> Float[Tensor, "cell 2"]:
    """Return `(x, y)` of every cell's centre, shares of the image."""
    rows, columns = grid
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    return torch.stack([x, y], 2).reshape(-1, 2)


def _projections(
    source: CellSource, places: Sequence[int], components: int, layers: Sequence[str]
) -> dict[str, Projection]:
    """Return the principal components of each layer's cells, from moments in float64."""
    totals: dict[str, tuple[Tensor, Tensor, int]] = {}
    for batch in source.batches(places):
        for name in layers:
            cells = batch.cells[name]
            step = next(step for step in (3, 5, 7, 1) if cells.shape[3] % step or step == 1)  # no column left out
            rows = cells.transpose(0, 1).flatten(1)[:, ::step].T
            mean, square, count = totals.get(name, (torch.zeros(rows.shape[1]).double(), 0, 0))
            totals[name] = (mean + rows.sum(0).double(), square + (rows.T @ rows).double(), count + len(rows))
    found = {}
    for name, (total, square, count) in totals.items():
        mean = total / count
        values, vectors = torch.linalg.eigh(square / count - mean[:, None] * mean[None])
        basis = vectors[:, -components:].flip(1)
        basis = basis * torch.where(basis.sum(0) < 0, -1.0, 1.0)
        scale = float(values[-components:].clamp_min(0).mean().sqrt().clamp_min(1e-12))
        found[name] = Projection(mean.float(), basis.float(), scale)
    return found


def _colour_features(colours: Float[Tensor, "image cell colour"]) -> Float[Tensor, "image cell feature"]:
    """Return colours, their squares and their products: what a reader with few weights can tell colours by."""
    count = colours.shape[2]
    pairs = [colours[..., i] * colours[..., j] for i in range(count) for j in range(i, count)]
    return torch.cat([colours, torch.stack(pairs, 2)], 2)
