"""Class maps of many methods, measured on the model that they explain: the task of `faithfulness` and `finer-cam`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import torch

from conceptlens.benchmark.benchmark_cases import ShownPhoto
from conceptlens.benchmark.map_measures import check_measure, measured_maps
from conceptlens.benchmark.map_methods import MapMethod, explained_by
from conceptlens.benchmark.protocol import Measure, Protocol
from conceptlens.benchmark.question_measures import (
    GIVEN,
    SENSITIVITY,
    needs_groups,
    question_scores,
    question_settings,
    sensitivity_score,
)
from conceptlens.benchmark.result_parts import MeasuredValue, PhotoRows
from conceptlens.cams.image_scoring import scored_images
from conceptlens.cams.targets import Probability
from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.metrics.map_mask import pointing_energy
from conceptlens.metrics.part_masks import seen_box_mask
from conceptlens.metrics.pixel_removal import STEPS
from conceptlens.metrics.rise_settings import RISE_FILLS
from conceptlens.model.preprocess import preparation_settings
from conceptlens.statistics.score import Score

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from conceptlens.benchmark.benchmark_photos import BenchmarkPhotos
    from conceptlens.benchmark.class_groups import ClassGroups
    from conceptlens.metrics.given_maps import Maps
    from conceptlens.model.backbone import Backbone
    from conceptlens.model.observation import Observation
    from conceptlens.render import Box

Asked = Literal["predicted", "label"]
# Energy inside the annotated box.
BOX = Measure("pointing_energy")
# Rows and columns of a box's mask.
BOX_PIXELS = 112


@dataclass(frozen=True, eq=False)
class ClassMapTask:
    """What is measured: photos, a model, methods, and metrics each with a fill.

    Args:
        photos: The photos.
        model: The model.
        methods: The methods, controls among them.
        measures: The columns: metrics of `metrics.FAITHFULNESS_METRICS` and `question_measures.GIVEN` with a fill,
            `SENSITIVITY` and `BOX`.
        layer: The layer that is observed; by default the model's last one.
        asked: Whether maps are of the "predicted" class or of the annotated "label".
        seed: Of all that is drawn.
        groups: The groups of the model's classes, for metrics that ask about them.

    Raises:
        InputError: A metric cannot be measured, or there are no labels, boxes or groups where they are needed.
    """

    photos: BenchmarkPhotos
    model: Backbone
    methods: tuple[MapMethod, ...]
    measures: tuple[Measure, ...]
    layer: str | None = None
    asked: Asked = "predicted"
    seed: int = 0
    groups: ClassGroups | None = None

    def __post_init__(self) -> None:
        """Check what is asked before anything is measured."""
        if self.asked not in get_args(Asked):
            raise InputError(f"asked is '{self.asked}'; expected {' or '.join(get_args(Asked))}")
        if not self.methods or not self.measures:
            raise InputError(f"there are {len(self.methods)} methods and {len(self.measures)} metrics; name some")
        for measure in self.measures:
            if measure != BOX:
                check_measure(measure)
        grouped = next((one for one in self.measures if needs_groups(one)), None)
        if grouped is not None and self.groups is None:
            raise InputError(f"{grouped.metric} asks about groups of classes, and none are given; give --groups FILE")
        if BOX in self.measures and self.photos.boxes is None:
            raise InputError(f"{self.photos.name} annotates no boxes; leave {BOX.metric} out, or give cub:DIR")
        if self.asked == "label":
            if not self.photos.labels:
                raise InputError(f"{self.photos.name} has no labels; ask for the predicted class")
            for name in dict.fromkeys(self.photos.labels):
                self.model.class_index(name)
        if self.layer is not None:
            self.model.check_layer(self.layer)

    @property
    def photo_names(self) -> Sequence[str]:
        """What the photos are called."""
        return self.photos.names

    @cached_property
    def resolution(self) -> tuple[int, int]:
        """Rows and columns of the model's input."""
        if self.model.preprocess is not None:
            return self.model.preprocess.size
        rows, columns = self.observe(0)[0].images.shape[2:]
        return rows, columns

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """One protocol for each method and measure, in their order."""
        return self._protocols

    @cached_property
    def _protocols(self) -> tuple[Protocol, ...]:
        return tuple(self._protocol(method, measure) for method in self.methods for measure in self.measures)

    def rows(self, index: int) -> PhotoRows:
        """Measure all methods on one photo.

        Args:
            index: The photo's index.

        Raises:
            InputError: The photo cannot be read, explained or measured.
        """
        seen, target = self.observe(index)
        maps = self._maps(seen, target)
        scored = scored_images(seen, [Probability(target)] * len(self.methods))
        asking = [one for one in self.measures if one.metric in GIVEN]
        others = [one for one in self.measures if one not in (BOX, SENSITIVITY, *asking)]
        values = measured_maps(maps, scored, others, self.seed)
        values |= question_scores(maps, scored, asking, self.groups, self.seed)
        if SENSITIVITY in self.measures:
            again = self.model.observe
            values[SENSITIVITY] = sensitivity_score(
                lambda images: self._maps(again(images, self.layer), target), seen.images, self.seed
            )
        if BOX in self.measures:
            values[BOX] = self._in_box(maps, seen.image_info[0].box, index)
        row = torch.zeros(1, dtype=torch.long, device=seen.images.device)
        confidence, name = float(scored.run(scored.images, row)[0, 0]), self.model.class_name(target)
        hashes = iter(self.protocols)
        found = tuple(
            MeasuredValue(
                next(hashes).hash, method.name, one.metric, one.fill, name, values[one].of(0, place), confidence
            )
            for place, method in enumerate(self.methods)
            for one in self.measures
        )
        label = self.photos.labels[index] if self.photos.labels else ""
        return PhotoRows(index, self.photos.names[index], label, found)

    def observe(self, index: int) -> tuple[Observation, int]:
        """Return what the model saw of a photo, and the class that is asked.

        Args:
            index: The photo's index.
        """
        seen = self.model.observe(self.photos.read(index), self.layer, [self.photos.names[index]])
        if self.asked == "label":
            return seen, self.model.class_index(self.photos.labels[index])
        return seen, int(seen.logits.argmax(1)[0])

    def show(self, index: int) -> ShownPhoto:
        """Make the maps of a photo again, to look at.

        Args:
            index: The photo's index.
        """
        seen, target = self.observe(index)
        found = explained_by(self.methods, seen, target)
        maps = {name: explained.maps[0, 0].float().cpu().numpy() for name, explained in found.items()}
        signed = {name: explained.signed for name, explained in found.items()}
        return ShownPhoto(self.photos.read(index), maps, signed, seen.image_info[0].box)

    def _maps(self, seen: Observation, target: int) -> Float[Tensor, "1 method height width"]:
        """Return the maps of all methods."""
        made = explained_by(self.methods, seen, target)
        return torch.cat([made[method.name].maps.to(seen.images.device) for method in self.methods], 1)

    def _in_box(self, maps: Maps, seen: Box, index: int) -> Score:
        """Return the share of each map's energy inside the annotated box, cut to the part that the model saw."""
        boxes = self.photos.boxes
        box = torch.from_numpy(boxes[index])  # pyright: ignore[reportOptionalSubscript]
        return pointing_energy(maps, seen_box_mask(box, seen, (BOX_PIXELS, BOX_PIXELS)))

    def _protocol(self, method: MapMethod, measure: Measure) -> Protocol:
        box = measure == BOX
        steps = self.resolution[0] if measure.metric in RISE_FILLS else STEPS
        removal = {} if measure == SENSITIVITY else {"steps": steps, "ties": "seeded", "rivals": "highest"}
        settings = {} if box else {**removal, **question_settings(measure, self.groups)}
        return Protocol(
            data=self.photos.name,
            data_fingerprint=self.photos.fingerprint,
            photos=len(self.photos.names),
            model=self.model.name,
            weights=self._weights,
            layer=self.layer or self.model.default_layers[-1],
            question=self.asked,
            method=method.name,
            metric=measure.metric,
            fill=measure.fill,
            resolution=(BOX_PIXELS, BOX_PIXELS) if box else self.resolution,
            seed=self.seed,
            method_settings=method.settings,
            metric_settings={
                **settings,
                "input": list(self.resolution),
                "preparation": preparation_settings(self.model.preprocess, self.model.transform),
            },
        )

    @cached_property
    def _weights(self) -> str:
        return weights_fingerprint(self.model.module)
