"""What a bottleneck reads in the photos of a labelled set, one batch of maps in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from conceptlens.cells import CellSource
from conceptlens.error import InputError
from conceptlens.metric.bottleneck import activation_norm
from conceptlens.metric.keypoint import Keypoints
from conceptlens.preprocess import Preprocess
from conceptlens.run import Failure

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from conceptlens.backbone import Backbone
    from conceptlens.concept.bottleneck.module import Bottleneck
    from conceptlens.data.labelled import LabelledSet


@dataclass(frozen=True, eq=False)
class BottleneckTable:
    """What a bottleneck reads in photos; those that could not be read are in `failures` and in no row.

    - `places[photo]`: where each stands in the set. `classes[photo]`: its class among the bottleneck's.
    - `activations[photo concept]`: before edits. `logits[photo class]`: edits included.
    - `area[photo concept]`: effective area of each map, as a share of it (`activation_norm`); NaN where nowhere
      positive.
    - `maps[photo chosen height width]`: of the concepts `mapped` alone.
    """

    places: Int[Tensor, "photo"]
    names: tuple[str, ...]
    classes: Int[Tensor, "photo"]
    activations: Float[Tensor, "photo concept"]
    logits: Float[Tensor, "photo class"]
    area: Float[Tensor, "photo concept"]
    mapped: tuple[int, ...]
    maps: Float[Tensor, "photo chosen height width"]
    failures: tuple[Failure, ...] = field(default=())

    @property
    def predicted(self) -> Int[Tensor, "photo"]:
        """The class with the highest logit."""
        return self.logits.argmax(1)


def read_table(
    bottleneck: Bottleneck,
    model: Backbone,
    photos: LabelledSet,
    places: Sequence[int] | None = None,
    mapped: Sequence[int] = (),
    cache: str | Path | None = None,
    batch: int = 16,
) -> BottleneckTable:
    """Return what `bottleneck` reads in the photos at `places`, all by default; maps of the concepts `mapped` are kept.

    `model` is the network as it was loaded. `cache` is a folder of cells, such as the fit's; without one every photo is
    run. Raises `InputError` for another model, for classes that are not the bottleneck's, and where no photo can be
    read.
    """
    theirs = classes_of(bottleneck, photos)
    source = CellSource(
        bottleneck.base.of(model), photos, bottleneck.layers, bottleneck.grid, None if cache is None else Path(cache)
    )
    chosen = list(mapped)
    found: dict[str, list[Tensor]] = {name: [] for name in ("places", "activations", "logits", "area", "maps")}
    with torch.inference_mode():
        for part in source.batches(range(len(photos)) if places is None else places, batch):
            read = bottleneck({name: cells.to(bottleneck.weight) for name, cells in part.cells.items()})
            norm = activation_norm(read.maps, "share")
            area = torch.where(norm.applies, norm.values, torch.nan).float()
            kept = (part.places, read.activations.cpu(), read.logits.cpu(), area, read.maps[:, chosen].cpu())
            for name, value in zip(found, kept, strict=True):
                found[name].append(value)
    if not found["places"]:
        raise InputError(f"no photo of {photos.name} could be read; {_first(source.failures)}")
    table = {name: torch.cat(values) for name, values in found.items()}
    order = table["places"].argsort()
    table = {name: value[order] for name, value in table.items()}
    at = table["places"].tolist()
    labels = torch.tensor([theirs[int(photos.labels[place])] for place in at])
    every = photos.names
    failures = tuple(source.failures[place] for place in sorted(source.failures))
    return BottleneckTable(
        names=tuple(every[place] for place in at), classes=labels, mapped=tuple(chosen), failures=failures, **table
    )


def classes_of(bottleneck: Bottleneck, photos: LabelledSet) -> list[int]:
    """Return which class of the bottleneck each class of the set is, by name."""
    places = {name: place for place, name in enumerate(bottleneck.classes)}
    missing = [name for name in photos.classes if name not in places]
    if missing:
        raise InputError(
            f"{photos.name} has the class '{missing[0]}', which this bottleneck does not know; give photos of its "
            f"{len(places)} classes ({', '.join(bottleneck.classes[:3])}, ...)"
        )
    return [places[name] for name in photos.classes]


def keypoints_seen(
    bottleneck: Bottleneck,
    model: Backbone,
    photos: LabelledSet,
    places: Sequence[int],
    concepts: Sequence[int],
    present: Bool[Tensor, "photo concept"],
) -> Keypoints:
    """Return the set's keypoints as shares of what the network sees of each photo, for some concepts.

    A keypoint that is cut off is not visible. `present[photo concept]`: of the same photos and concepts.
    Raises `InputError` for a set without keypoints.
    """
    known = photos.annotation.keypoints if photos.annotation else None
    if known is None:
        raise InputError(f"{photos.name} has no keypoints; give a set that has them, such as cub:FOLDER")
    view = bottleneck.base.of(model).transform
    at = [int(place) for place in places]
    boxes, sizes = [], []
    for place in at:
        width, height = photos[place].size
        left, top, right, bottom = view.box((width, height)) if isinstance(view, Preprocess) else (0, 0, 1, 1)
        boxes.append((left, top, right, bottom))
        sizes.append(((right - left) * width, (bottom - top) * height))
    box = torch.tensor(boxes)[:, None]
    xy = (torch.tensor(known.xy[at]) - box[..., :2]) / (box[..., 2:] - box[..., :2])
    inside = ((xy >= 0) & (xy <= 1)).all(2)
    visible = torch.tensor(known.visible[at]) & inside
    parts = [known.parts.get(bottleneck.concepts[one].part or "", ()) for one in concepts]
    own = torch.tensor([[name in part for name in known.names] for part in parts]).reshape(len(parts), len(known.names))
    return Keypoints(torch.where(visible[..., None], xy, 0.0).float(), visible, own, present, torch.tensor(sizes))


def _first(failures: dict[int, Failure]) -> str:
    return next((f"the first: {one.reason}" for _, one in sorted(failures.items())), "the set is empty")
