"""What an explaining run does with each batch: photos are decoded and prepared ahead, then explained into rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from conceptlens.explainer.photo_result import PhotoResult
from conceptlens.explainer.photo_run import ExplainOptions, explain_batch
from conceptlens.explainer.runs.explained_rows import result_rows
from conceptlens.io.errors import Failure
from conceptlens.model.image_batch import ReadyPhoto
from conceptlens.model.photo_reading import read_photos_for
from conceptlens.store.explanation_store import ExplanationRows

if TYPE_CHECKING:
    from conceptlens.model.backbone import Backbone


@dataclass(frozen=True, eq=False)
class ExplainTask:
    """What every worker of a run needs: the model, the photos by their full paths, and what to compute.

    Attributes:
        model: The model to explain.
        names: The photos.
        options: What `run_options` returns.
        run: The id of the run.
        with_maps: Whether maps are kept.
        true_classes: The label of each photo that has one, by its name.
        larger: Other input sizes that photos were shown at so far: as soon as they are known, the next photos are
            prepared for them too while they are read, and are then held no longer.
    """

    model: Backbone
    names: Sequence[str]
    options: ExplainOptions
    run: str
    with_maps: bool = False
    true_classes: Mapping[str, str] = field(default_factory=dict)
    larger: list[tuple[int, int]] = field(default_factory=list)

    @property
    def about(self) -> str:
        """What is sent to workers."""
        return f"{self.model.name} or its options"

    def read(self, batch: range) -> list[ReadyPhoto | Failure]:
        """Decode and prepare the photos of one batch, several at a time.

        Args:
            batch: Indices of photos.
        """
        known = tuple(self.larger)  # the photos themselves are kept until it is known what they are for
        return read_photos_for(self.model, [self.names[index] for index in batch], known, keep=not known)

    def compute(self, read: Sequence[ReadyPhoto | Failure]) -> ExplanationRows:
        """Return the rows of one batch of photos.

        Args:
            read: What `read` returned.
        """
        found = explain_batch(self.model, read, self.options)
        if not self.larger:
            own = None if self.model.preprocess is None else tuple(self.model.preprocess.size)
            self.larger.extend(size for size in _larger_sizes(found) if size != own)
        return result_rows(found, self.run, self.with_maps, self.true_classes)


def _larger_sizes(found: Sequence[PhotoResult | Failure]) -> list[tuple[int, int]]:
    """Return the input sizes that competing regions have shown photos at."""
    made = (one.concepts for one in found if isinstance(one, PhotoResult))
    sizes = next((one.source.settings.get("input_sizes", ()) for one in made if one is not None), ())
    return [(int(size[0]), int(size[1])) for size in sizes]  # pyright: ignore
