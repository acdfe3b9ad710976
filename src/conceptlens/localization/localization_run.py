"""One run of an evaluation by the command line: probe photos, reference method, and the record of its results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlens.data.masked_sets import open_set
from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import settings_fingerprint
from conceptlens.io.images import find_images
from conceptlens.localization.methods import METHODS, find_kind, method_names

if TYPE_CHECKING:
    from conceptlens.data.masked_set import MaskedSet
    from conceptlens.io.errors import Failure
    from conceptlens.localization.methods import Method
    from conceptlens.localization.result_rows import Row
    from conceptlens.localization.summary import LocalizationSummary
    from conceptlens.model.image_batch import Photo

READS_BRANCH = ("ce_fam", "competing", "coarse", "fine", "per_cell")


@dataclass(frozen=True)
class LocalizationRun:
    """All that one run gave; `description` holds the data, the model and the settings."""

    data: MaskedSet
    methods: Mapping[str, Method]
    rows: Sequence[Row]
    failures: Sequence[Failure]
    summary: LocalizationSummary
    description: Mapping[str, Any]

    @property
    def primary(self) -> str:
        """The first method, whose cases are shown."""
        return next(iter(self.methods))


def needs_probe(methods: Sequence[str]) -> bool:
    """Whether a method needs probe photos."""
    kinds = [find_kind(name) for name in methods]
    return any(kind is not None and kind.probes for kind in kinds)


@dataclass(frozen=True, eq=False)
class TrainPhotos:
    """The photos of a set with masks, read one by one; it can be sent to another process."""

    data: MaskedSet

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Photo]:
        """Read one photo after the other."""
        return (one.photo for one in self.data)


def probe_photos(data: str, folder: Path | None, methods: Sequence[str], **choices: Any) -> tuple[Iterable[Photo], str]:
    """Return photos for neuron labels, and their fingerprint; none where no method labels any.

    Args:
        data: The set, whose train split has the photos where no folder is given.
        folder: A folder of photos.
        methods: Names of methods.
        **choices: How the set reads masks.

    Raises:
        InputError: The folder has no photo, or none is given and the set has no train split.
    """
    if not needs_probe(methods):
        return (), ""
    if folder is not None:
        files = find_images(folder)
        return files, settings_fingerprint([str(file.relative_to(folder)) for file in files])
    try:
        train = open_set(data, "train", **choices)
    except InputError as error:
        raise InputError(
            f"clip_dissect and www need probe photos, and {data} gives no train split ({error}); "
            "give photos with --probe FOLDER, or leave these methods out"
        ) from None
    return TrainPhotos(train), settings_fingerprint([train.name, list(train.names)])


def reference_method(compare_with: str | None, methods: Sequence[str]) -> str | None:
    """Return the method to compare the others with: by default Grad-CAM, where it takes part."""
    if compare_with is None:
        return "grad_cam" if "grad_cam" in methods and len(methods) > 1 else None
    (name,) = method_names([compare_with])
    if name not in methods:
        raise InputError(
            f"--compare-with {compare_with} is none of the methods {', '.join(methods)}; add it to --methods"
        )
    return name


def check_use(methods: Sequence[str], branch: Path | None, probe: Path | None) -> None:
    """Refuse options that none of the methods uses."""
    if branch is not None and not set(READS_BRANCH) & set(methods):
        raise InputError(f"--branch has no effect without one of the methods {', '.join(READS_BRANCH)}; leave it out")
    if probe is not None and not needs_probe(methods):
        names = ", ".join(name for name, kind in METHODS.items() if kind.probes)
        raise InputError(f"--probe has no effect without one of the methods {names}; leave it out")
