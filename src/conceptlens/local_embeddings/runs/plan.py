"""What is embedded, and how: everything that decides the rows of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.local_embeddings.modes import Setting
from conceptlens.local_embeddings.runs.noise import Noise
from conceptlens.model.input_sizes import resized
from conceptlens.model.preprocess import Preprocess
from conceptlens.store.row import row_id

if TYPE_CHECKING:
    from conceptlens.data.masked_set import MaskedSet
    from conceptlens.model.backbone import Backbone

Reading = Literal["model", "published"]
# LoCE's own preparation: 640 x 480, bicubic, values from 0 to 1, whatever the model was trained with.
PUBLISHED = Preprocess((480, 640), (0.0,) * 3, (1.0,) * 3, "bicubic", crop_mode="squash")


@dataclass(frozen=True)
class EmbedPlan:
    """How a run embeds.

    - `layers`: all from one forward pass. `setting`: the mode of the fit and what it needs.
    - `least_area`: masks that cover less of the photo are left out; 0 leaves out the blank.
    - `control`: each vector is also fitted to a mask of another photo, the next in the set that has one.
    - `scale_photos`: the channels' root mean square is taken over so many photos, evenly spaced in the set.
    - `batch_size`: photos in one forward pass and in one batch of the store.
    - `size`: rows and columns of the input; `reading`: `model`, its own preparation of the whole photo, or
      `published`, LoCE's 640 x 480 pixels without mean and deviation.
    - `noise`: what is added to photos, to see how firm embeddings are. `seed` draws it.
    - `most`: end after so many photos.
    """

    layers: tuple[str, ...]
    setting: Setting = field(default_factory=lambda: Setting("contrast"))
    least_area: float = 0.0
    control: bool = True
    scale_photos: int = 32
    batch_size: int = 8
    size: tuple[int, int] | None = None
    reading: Reading = "model"
    noise: Noise = field(default_factory=Noise)
    seed: int = 0
    most: int | None = None

    def __post_init__(self) -> None:
        """Check every number."""
        counts = {"batch_size": self.batch_size, "scale_photos": self.scale_photos, "most": self.most or 1}
        wrong = [f"{name}={value}" for name, value in counts.items() if value < 1]
        wrong += [f"least_area={self.least_area}"] if not 0 <= self.least_area < 1 else []
        wrong += [f"size={self.size}"] if self.size is not None and not all(0 < s <= 4096 for s in self.size) else []
        wrong += [f"reading={self.reading!r}"] if self.reading not in ("model", "published") else []
        if wrong:
            raise InputError(
                f"{', '.join(wrong)} was asked for; counts are at least 1, least_area a share from 0 to below 1, size "
                "from 1 to 4096 pixels, reading model or published"
            )

    def prepared(self, model: Backbone) -> Backbone:
        """Return the model with the preparation of photos that is asked for."""
        if self.reading == "published":
            transform = PUBLISHED if self.size is None else resized(PUBLISHED, self.size)
        elif isinstance(model.transform, Preprocess):
            transform = model.transform if self.size is None else resized(model.transform, self.size)
        elif self.size is not None:
            raise InputError(
                f"{model.name} has a transform of its own, so its input size cannot be set; leave size out"
            )
        else:
            return model
        return replace(model, transform=transform)

    def settings(self, model: Backbone, data: MaskedSet) -> dict[str, Any]:
        """Return what a run is known by: all that decides its rows, the model's weights, the set's choices.

        Neither how many photos are taken at once, nor how many in all: a run may go on with less memory, or further.
        """
        told = {name: value for name, value in asdict(self).items() if name not in ("batch_size", "most")}
        told |= {
            "mode": self.setting.mode,
            "model": model.name,
            "weights": weights_fingerprint(model.module),
            "data": data.name,
        }
        told["masks"] = getattr(data, "choices", {})
        return {name: _plain(value) for name, value in told.items()}


def run_id(settings: Mapping[str, Any]) -> str:
    """Return the id of a run with these settings: the same wherever and whenever it runs."""
    return row_id("run", *(f"{name}={settings[name]}" for name in sorted(settings)))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return {name: _plain(part) for name, part in value.items()} if isinstance(value, dict) else value
