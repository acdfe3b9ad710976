"""ImageNet-S: photos of ImageNet with the pixels of their class."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.annotation_files import existing_folder, read_aligned, read_colours, read_text
from conceptlens.data.masked_set import ListedMaskedSet, MaskedPhoto
from conceptlens.io.errors import InputError, near_names
from conceptlens.io.folder_files import leads_nowhere
from conceptlens.io.image_file import SUFFIXES
from conceptlens.io.torchvision_operators import mend_torchvision

IGNORED = 1000
# Classes of ImageNet that ImageNet-S with 919 classes counts as another one (from its authors' page).
MERGED: dict[str, str] = {
    "n04356056": "n04355933",  # sunglasses: sunglass
    "n04493381": "n02808440",  # tub: bathtub
    "n03642806": "n03832673",  # laptop: notebook
    "n04008634": "n03773504",  # projectile: missile
    "n03887697": "n15075141",  # paper towel: toilet tissue
}
# First names that two classes share.
NAMES: dict[str, str] = {
    "n02012849": "crane bird",
    "n03126707": "construction crane",
    "n02113186": "Cardigan Welsh corgi",
}
_SIZES = (50, 300, 919)
_WNID = re.compile(r"n\d{8}")


class ImageNetS(ListedMaskedSet[Path]):
    """ImageNet-S with 50, 300 or 919 classes: one concept a photo, the class of its folder.

    Expects, in the folder or in an `ImageNetS919` within, `SPLIT-segmentation/WNID/*.png` (class = red + 256 green)
    and the photos in `SPLIT/WNID/`, for the split `validation` or `train-semi`. Classes are numbered from 1 in the
    sorted order of the authors' list, `ImageNetS_categories_im919.txt`, looked for in the folder and the one above;
    without it, all folders of the split must be there to count them.

    - The mask is the *folder's* class. 1000 is ignored though it is the largest number; 0 and other classes are rest.
    - A class that was merged into another (`MERGED`) has the number and name of that other, and its photos may lie
      under either name.
    - The group is `object`, and a photo is called `WNID/FILE`; photos come in that order. Photos without a mask are
      not listed, and one whose mask lacks its class shows no concept.

    Args:
        folder: The folder of the set.
        split: `validation` or `train-semi`.

    Raises:
        InputError: A file is missing or broken, or a PNG holds a number that is no class.
    """

    def __init__(self, folder: str | Path, split: str = "validation") -> None:
        given = existing_folder(folder, "ImageNet-S")
        inner = [candidate for candidate in given.glob("ImageNetS*") if (candidate / f"{split}-segmentation").is_dir()]
        own = not inner or (given / f"{split}-segmentation").is_dir()
        self._folder = given if own else max(inner, key=lambda one: (len(one.name), one.name))  # the largest
        self._split = split
        self._masks = existing_folder(self._folder / f"{split}-segmentation", f"ImageNet-S {split}")
        folders = self._folders()
        self._wnids = _classes(self._folder, folders)
        self._ids = {wnid: number for number, wnid in enumerate(self._wnids, start=1)}
        for name in folders:
            self._class(name)
        self.name = f"imagenet_s{len(self._wnids)} {split}"
        self.concepts = tuple(map(ConceptName, _names(self._wnids)))
        self._groups = ("object",) * len(self.concepts)
        self._entries = sorted(png for name in folders for png in (self._masks / name).glob("*.png"))
        if not self._entries:
            raise InputError(
                f"the folder {str(self._masks)!r} holds no WNID/*.png; unpack the masks of ImageNet-S there"
            )

    def _folders(self) -> list[str]:
        """Return the folders of masks, sorted, each real one once; count links to one of them and to nowhere."""
        entries = sorted(entry for entry in self._masks.iterdir() if entry.is_dir() or leads_nowhere(entry))
        there = [entry for entry in entries if entry.is_dir()]
        self.excluded = {entry.name: "a link that leads nowhere" for entry in entries if not entry.is_dir()}
        first: dict[Path, str] = {}
        for entry in sorted(there, key=lambda entry: (entry.is_symlink(), entry.name)):
            other = first.setdefault(entry.resolve(), entry.name)
            if other != entry.name:
                self.excluded[entry.name] = f"a link to {other}, whose masks are listed there"
        return sorted(first.values())

    def _name_of(self, entry: Path) -> str:
        return f"{entry.parent.name}/{entry.stem}"

    def _read(self, entry: Path) -> MaskedPhoto:
        wnid = entry.parent.name
        number = self._class(wnid)
        codes = read_colours(entry)
        unknown = np.setdiff1d(codes, [*range(len(self._wnids) + 1), IGNORED])
        if unknown.size:
            raise InputError(
                f"{str(entry)!r} holds class {unknown[0]}, expected 0 to {len(self._wnids)} or {IGNORED}; "
                "check that the list of categories belongs to these masks"
            )
        photo, codes = read_aligned(self._photo(wnid, entry.stem), codes, exact=False)
        found = [(number - 1, codes == number)]
        return self._masked_photo(self._name_of(entry), photo, found, codes.shape, codes == IGNORED)

    def _class(self, wnid: str) -> int:
        """Return the number of a folder's class."""
        number = self._ids.get(wnid) or self._ids.get(MERGED.get(wnid, ""))
        if number is None:
            raise InputError(
                f"the folder {str(self._masks / wnid)!r} is no class of ImageNet-S with {len(self._wnids)} classes; "
                f"{near_names(wnid, self._wnids)}; check the list of categories"
            )
        return number

    def _photo(self, wnid: str, stem: str) -> Path:
        """Find the photo of a mask, under its class or one merged with it."""
        merged = MERGED.get(wnid, wnid)
        names = dict.fromkeys([wnid, merged, *(old for old, new in MERGED.items() if new == merged)])
        for name in names:
            for suffix in (".JPEG", ".jpg", *sorted(SUFFIXES)):
                photo = self._folder / self._split / name / f"{stem}{suffix}"
                if photo.is_file():
                    return photo
        wanted = str(self._folder / self._split / wnid / f"{stem}.JPEG")
        raise InputError(f"no photo {wanted!r} for its mask; copy the {self._split} photos of ImageNet there")


def _classes(folder: Path, folders: list[str]) -> list[str]:
    """Return the classes by number: the authors' list, sorted, or else the folders where all are there."""
    folders_above = (folder, folder.resolve().parent)
    lists = [path for one in folders_above for path in one.glob("ImageNetS_categories_im*.txt")]
    sized = re.search(r"\d+$", folder.resolve().name)
    own = [path for path in lists if sized and path.stem.endswith(f"im{sized[0]}")] or lists
    if len({path.name for path in own}) > 1:
        raise InputError(
            f"{str(folder)!r} has several lists of categories ({', '.join(path.name for path in own)}); keep the one "
            "that belongs to its masks"
        )
    if own:
        return sorted(set(_WNID.findall(read_text(own[0]))))
    if len(folders) in _SIZES:
        return folders
    raise InputError(
        f"{str(folder)!r} has {len(folders)} classes and no list of them, so their numbers are unknown; put "
        "ImageNetS_categories_im919.txt (or im300, im50), which comes with ImageNet-S, into it"
    )


def imagenet_names() -> dict[str, str]:
    """Return all the names of each class of ImageNet-1k, by its WordNet number."""
    mend_torchvision()
    from timm.data.imagenet_info import ImageNetInfo

    known = ImageNetInfo()
    return {wnid: known.label_name_to_description(wnid) for wnid in known.label_names()}


def _names(wnids: list[str]) -> list[str]:
    """Return a name for each class, as ImageNet calls it."""
    known = imagenet_names()
    strange = [wnid for wnid in wnids if wnid not in known]
    if strange:
        raise InputError(f"{strange[0]!r} is no class of ImageNet-1k; check the list of categories")
    return [NAMES.get(wnid) or known[wnid].split(",")[0] for wnid in wnids]
