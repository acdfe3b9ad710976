"""Discovered concepts: their directions, names and strongest places, kept in a folder that people can edit."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from conceptlens.discovery.concept_count import Candidate
from conceptlens.discovery.concept_names import parse_names, with_names
from conceptlens.discovery.concept_places import Place, Suggestion
from conceptlens.discovery.discovered_folder import read_folder, write_folder
from conceptlens.discovery.factorisation import coefficients, shares
from conceptlens.io.errors import InputError
from conceptlens.model.observation import check_observation
from conceptlens.model.own_weights import check_own_weights

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.model.backbone import Backbone
    from conceptlens.model.observation import Observation


@dataclass(frozen=True, eq=False)
class DiscoveredConcepts:
    """Directions that the cells of a set of photos share, found by `discover`.

    Attributes:
        directions: Unit vectors (L2) in the space of the layer's channels, the most active concept first.
        names: What each concept is called; empty where it has no name.
        suggestions: Words that may name each concept, the best first; often none.
        places: The strongest places of each concept, each in another photo, the strongest first, without
            those that have less than a quarter of its activation.
        activity: The mean share of the cells of all photos that each concept accounts for.
        stability: The mean cosine of each direction with its match in other fits.
        shared: How many of the photos that were fitted share each direction (`sharing_photos`).
        model: The name of the model.
        model_identity: The fingerprint of its weights.
        layer: The layer whose cells were factorised.
        candidates: The numbers of concepts that were tried.
        chosen: The index of the one that was taken.
        diagnostics: How many photos and cells, and what is left of them: see `discover`.
        failures: The files that could not be read, with the reason.
    """

    directions: Float[Tensor, "concept channel"]
    names: tuple[str, ...]
    suggestions: tuple[tuple[Suggestion, ...], ...]
    places: tuple[tuple[Place, ...], ...]
    activity: tuple[float, ...]
    stability: tuple[float, ...]
    shared: tuple[float, ...]
    model: str
    model_identity: str
    layer: str
    candidates: tuple[Candidate, ...]
    chosen: int
    diagnostics: Mapping[str, Any]
    failures: tuple[tuple[str, str], ...] = ()
    _known: weakref.WeakSet[Backbone] = field(default_factory=weakref.WeakSet, repr=False)

    def __repr__(self) -> str:
        """Show how many there are, of which model, and what they are called."""
        return f"{len(self)} discovered concepts of {self.model} at {self.layer}: {', '.join(self.labels)}"

    def __len__(self) -> int:
        """Return the number of concepts."""
        return len(self.directions)

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each concept, or `concept 7` where it has none."""
        return tuple(name or f"concept {number}" for number, name in enumerate(self.names))

    def cell_shares(self, observation: Observation) -> Float[Tensor, "image concept height width"]:
        """Return the share of each cell's activation that each concept accounts for.

        See `factorisation.shares`; what the shares leave of 1 is not reconstructed by the concepts.

        Args:
            observation: Photos, observed at `layer` by the model that the concepts belong to.

        Returns:
            Shares from 0 to 1 that sum to at most 1 in every cell, float32, on the device of the observation.

        Raises:
            InputError: The observation is of another model, or not of this layer.
            InputTypeError: `observation` is no `Observation`.
        """
        cells, found = self._read(observation)
        return _as_maps(shares(cells, found, self.directions), observation.feature(self.layer))

    def activations(self, observation: Observation) -> Float[Tensor, "image concept height width"]:
        """Return the coefficient of each concept in each cell, by non-negative least squares (`coefficients`).

        Args:
            observation: Photos, observed at `layer` by the model that the concepts belong to.

        Returns:
            Coefficients of unit directions, in the unit of the layer's activations.

        Raises:
            InputError: The observation is of another model, or not of this layer.
            InputTypeError: `observation` is no `Observation`.
        """
        return _as_maps(self._read(observation)[1], observation.feature(self.layer))

    def check(self, model: Backbone) -> None:
        """Refuse a model that the concepts were not discovered in.

        Args:
            model: A backbone, compared by the fingerprint of its weights.

        Raises:
            InputError: For a model with other weights, of whatever name.
        """
        remedy = "load that model, or discover concepts in this one with conceptlens discover"
        check_own_weights(
            model, self.model_identity, self._known, f"these concepts were discovered in {self.model}", remedy
        )

    def named(self, names: Mapping[int, str] | str, where: str = "the names given") -> DiscoveredConcepts:
        """Return the same concepts with some of their names changed.

        Args:
            names: Names by number, or a text such as `"3=water, 5=grass"`; an empty name takes one away.
            where: Where they were given, for messages.

        Raises:
            InputError: There is no concept of a number, or two would have the same name.
        """
        given = parse_names(names) if isinstance(names, str) else names
        return replace(self, names=with_names(self.names, given, where))

    def save(self, folder: str | Path) -> Path:
        """Write `concepts.safetensors`, `names.tsv` and `config.json`, each atomically.

        Args:
            folder: The folder to write; it is made where there is none.

        Returns:
            The folder.
        """
        return write_folder(vars(self), Path(folder))

    @staticmethod
    def load(folder: str | Path) -> DiscoveredConcepts:
        """Read concepts that `save` or `conceptlens discover` wrote, with the names that `names.tsv` has by now.

        Args:
            folder: The folder.

        Raises:
            InputError: The folder holds no whole concepts, or its names do not belong to them.
        """
        fields, names, table = read_folder(Path(folder))
        return DiscoveredConcepts(**fields).named(names, str(table))

    def _read(self, observation: Observation) -> tuple[Float[Tensor, "cell channel"], Float[Tensor, "cell concept"]]:
        check_observation(observation)
        self.check(observation.model)
        feature = observation.feature(self.layer)
        if feature.shape[1] != self.directions.shape[1]:
            raise InputError(
                f"layer '{self.layer}' has {feature.shape[1]} channels here, and the concepts have "
                f"{self.directions.shape[1]}; discover them again"
            )
        cells = feature.flatten(2).transpose(1, 2).flatten(0, 1).float()
        return cells, coefficients(cells, self.directions)


def _as_maps(
    values: Float[Tensor, "cell concept"], feature: Float[Tensor, "image channel height width"]
) -> Float[Tensor, "image concept height width"]:
    images, _, height, width = feature.shape
    return values.unflatten(0, (images, height, width)).permute(0, 3, 1, 2)
