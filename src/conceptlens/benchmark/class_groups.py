"""Groups of a model's classes, such as dogs: what metrics ask that stand a group of classes in the place of one."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from conceptlens.concepts.class_knowledge import imagenet_knowledge
from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import settings_fingerprint
from conceptlens.io.text_file import read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float
    from torch import Tensor

    from conceptlens.concepts.class_knowledge import ClassKnowledge
    from conceptlens.model.backbone import Backbone
    from conceptlens.model.class_concepts import ClassLink

ADVICE = "give a file with a class, a tab and the name of its group in every line"


@dataclass(frozen=True, eq=False)
class ClassGroups:
    """The group of every class of a model.

    Args:
        names: What the group of each class is called; empty for a class without one.
        members: The classes of each class's group, itself among them; none for a class without a group.
        source: Where the groups come from.
    """

    names: tuple[str, ...] = field(repr=False)
    members: Bool[Tensor, "class class"] = field(repr=False)
    source: str

    @property
    def fingerprint(self) -> str:
        """Of the names and members of all groups."""
        return settings_fingerprint([list(self.names), self.members.nonzero().tolist()])

    def rival(self, target: int, probabilities: Float[Tensor, "class"]) -> Bool[Tensor, "class"]:
        """Return the rival of a class's group: the group of the most probable class outside it, without shared members.

        Args:
            target: The class.
            probabilities: Of all classes, of the whole photo.

        Returns:
            The rival's classes; none where the class has no group, or no other class has one.
        """
        own = self.members[target]
        others = self.members.any(1) & ~own
        if not bool(own.any()) or not bool(others.any()):
            return torch.zeros_like(own)
        likeliest = int(probabilities.cpu().masked_fill(~others, -1).argmax())
        return self.members[likeliest] & ~own


def class_groups(model: Backbone, file: Path | None = None) -> ClassGroups:
    """Return groups of a model's classes: those of a file, or the kinds that class knowledge links its classes to.

    A class's group is then the most specific kind that another class of the model is of too: a tabby is one of the
    cats.

    Args:
        model: The model.
        file: A text file with a class, a tab and the name of its group in every line; classes that it does not name
            have no group.

    Raises:
        InputError: The model has no class names, the file cannot be read, names a class that the model does not have or
            has twice, or one class alone; or the model's classes are linked to no kinds.
    """
    if model.class_names is None:
        raise InputError(f"{model.name} has no class names, so its classes have no groups; give --class-names FILE")
    return _of_links(model) if file is None else _of_file(model, file)


def _of_file(model: Backbone, file: Path) -> ClassGroups:
    groups: dict[int, str] = {}
    for number, line in enumerate(csv.reader(read_text(file, ADVICE).splitlines(), delimiter="\t"), 1):
        row = [cell.strip() for cell in line]
        if not any(row) or row[0].startswith("#"):
            continue
        if len(row) != 2 or not all(row):
            raise InputError(f"line {number} of {file} holds {len(row)} cells; {ADVICE}")
        known = model.class_index(row[0])
        if known in groups:
            raise InputError(f"{file} names the class {row[0]} twice; give each class one group")
        groups[known] = row[1]
    if len(groups) < 2:
        raise InputError(f"{file} names {len(groups)} classes; groups need two or more: {ADVICE}")
    names = [groups.get(index, "") for index in range(len(model.class_names or ()))]
    members = torch.tensor([[bool(own) and own == other for other in names] for own in names])
    return ClassGroups(tuple(names), members, file.name)


def _of_links(model: Backbone) -> ClassGroups:
    linked = model.class_concepts
    knowledge = model.knowledge or imagenet_knowledge()
    kinds = [] if linked is None else [_kinds(link, knowledge) for link in linked.links]
    times = Counter(kind for own in kinds for kind in own)
    names = tuple(next((kind for kind in own if times[kind] > 1), "") for own in kinds)
    if not any(names):
        raise InputError(
            f"the classes of {model.name} are linked to no kinds that several share, so they have no groups; {ADVICE}: "
            "--groups FILE"
        )
    members = torch.tensor([[bool(name) and name in other for other in kinds] for name in names])
    return ClassGroups(names, members, knowledge.source)


def _kinds(link: ClassLink, knowledge: ClassKnowledge) -> Sequence[str]:
    """Return the kinds of a class from the most specific one to the most general; none where it is not linked."""
    index = knowledge.index(link.known_as) if link.known_as else None
    if index is not None:
        return tuple(kind.casefold() for kind in knowledge.classes[index].kinds)
    known = link.known_as.casefold()
    for member in knowledge.members(known):
        chain = [kind.casefold() for kind in knowledge.classes[member].kinds]
        return tuple(chain[chain.index(known) :])
    return ()
