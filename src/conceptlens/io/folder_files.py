"""The photos below a folder, in linked folders too: every real folder once, and no loop."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from conceptlens.io.errors import InputError
from conceptlens.io.image_file import SUFFIXES, quoted

Identity = tuple[int, int]  # device and inode: what a folder is, however it is called


@dataclass(frozen=True)
class FolderFiles:
    """What lies below a folder.

    Attributes:
        photos: Paths from the folder, with `/`, in the order of folders and then of names. A link that leads nowhere
            is one of them where a photo or a folder may have been meant, so that reading it says what is missing.
        not_entered: Linked folders that are not entered, by their path, to the reason: their photos are listed already.
    """

    photos: tuple[str, ...]
    not_entered: dict[str, str]


@dataclass
class _Walk:
    """A walk that goes on: folders that were seen, by identity; photos by folder; links still to be followed."""

    start: str
    seen: dict[Identity, str] = field(default_factory=dict)
    photos: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    links: deque[str] = field(default_factory=deque)

    def enter(self, inner: str) -> None:
        """List a folder, given by its path from the start, and the folders in it; links wait."""
        top = os.path.join(self.start, inner) if inner else self.start
        for root, below, files in os.walk(top, onerror=_refuse):
            path = root[len(self.start) :].strip(os.sep).replace(os.sep, "/")
            named = sorted(name for name in below if not name.startswith("."))
            linked = {name for name in named if os.path.islink(os.path.join(root, name))}
            self.links.extend(f"{path}/{name}".lstrip("/") for name in named if name in linked)
            below[:] = [name for name in named if name not in linked and self._is_new(root, path, name)]
            parts = tuple(path.split("/")) if path else ()
            self.photos += [(parts, name) for name in files if may_be_photo(os.path.join(root, name))]

    def _is_new(self, root: str, path: str, name: str) -> bool:
        identity = _identity(os.path.join(root, name))
        if identity in self.seen:
            return False
        self.seen[identity] = f"{path}/{name}".lstrip("/")
        return True


def files_below(folder: str | os.PathLike[str]) -> FolderFiles:
    """List the photos below a folder, hidden ones left out; linked folders are entered, each real folder once.

    Folders that really lie there come first, so a photo has the path where it lies. A link back to a folder that holds
    it is a loop, and is not entered.

    Args:
        folder: The folder.

    Raises:
        InputError: A folder cannot be listed.
    """
    walk = _Walk(str(folder))
    walk.seen[_identity(walk.start)] = ""
    walk.enter("")
    not_entered: dict[str, str] = {}
    while walk.links:
        link = walk.links.popleft()
        place = os.path.join(walk.start, link)
        identity, target = _identity(place), os.path.realpath(place)
        if os.path.join(os.path.realpath(os.path.dirname(place)), "").startswith(os.path.join(target, "")):
            not_entered[link] = f"a link back to {quoted(target)}, which holds it"
        elif identity in walk.seen:
            not_entered[link] = f"a link to {quoted(walk.seen[identity])}, whose photos are listed there"
        else:
            walk.seen[identity] = link
            walk.enter(link)
    listed = sorted(walk.photos)
    return FolderFiles(tuple("/".join((*parts, name)) for parts, name in listed), not_entered)


def may_be_photo(path: str | os.PathLike[str]) -> bool:
    """Whether a photo is meant by a path that is no folder: by its suffix, or for it is a link that leads nowhere.

    Args:
        path: The path; a hidden one is no photo.
    """
    name = os.path.basename(path)
    suffix = os.path.splitext(name)[1].lower()
    if name.startswith(".") or suffix not in ("", *SUFFIXES):
        return False
    return bool(suffix) or leads_nowhere(path)


def leads_nowhere(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a link to something that is not there."""
    return os.path.islink(path) and not os.path.exists(path)


def once_each(paths: list[Path]) -> list[Path]:
    """Return paths, sorted, less those that are another one's file in the same real folder; the straight path stays."""
    real = {folder: os.path.realpath(folder) for folder in {path.parent for path in paths}}

    def turns(path: Path) -> tuple[bool, int, Path]:
        straight = os.path.abspath(path.parent) == real[path.parent]
        return not straight, len(path.parts), path

    kept = {(real[path.parent], path.name): path for path in sorted(paths, key=turns, reverse=True)}
    return sorted(kept.values())


def _identity(folder: str) -> Identity:
    about = os.stat(folder)
    return about.st_dev, about.st_ino


def _refuse(error: OSError) -> None:
    """Refuse an unreadable folder: it is an error, not a gap in the data."""
    raise InputError(f"the folder {quoted(error.filename)} cannot be listed; allow it or leave it out") from error
