"""What a store holds of explained photos, one frozen row for each thing: predictions, answers, concepts, maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32


@dataclass(frozen=True)
class PredictionRow:
    """One of the classes with the highest scores of a photo.

    - `rank`: from 1, the highest score first.
    - `class_index`, `class_name`: the class among the model's.
    - `logit`: the score before the softmax; `probability`: 0 to 1, `nan` where the model gives none.
    """

    id: str
    run: str
    image: str
    rank: int
    class_index: int
    class_name: str
    logit: float
    probability: float = nan


@dataclass(frozen=True)
class ExplainedRow:
    """What is explained in a photo, one row for each photo and run.

    - `target_index`, `target`: the class that is explained; -1 and "" for a model without classes.
    - `logit`, `probability`: its score before the softmax, and its probability.
    - `against_index`, `against`: the class that it is compared with; -1 and "" where it is with none.
    - `true_class`: the label of the photo, "" where it is not known.
    - `margin`: of the target over `over` ("" where it is over nothing), in `unit`; it is the sum of `named`,
        `discovered`, `unnamed` and `residual`. `unplaced` is the part of `unnamed` that no cell holds. All `nan` where
        contributions do not add up.
    - `layer`, `method`: where the maps are taken from, and how they are made.
    """

    id: str
    run: str
    image: str
    target_index: int = -1
    target: str = ""
    logit: float = nan
    probability: float = nan
    against_index: int = -1
    against: str = ""
    true_class: str = ""
    margin: float = nan
    named: float = nan
    discovered: float = nan
    unnamed: float = nan
    unplaced: float = nan
    residual: float = nan
    over: str = ""
    unit: str = ""
    layer: str = ""
    method: str = ""


@dataclass(frozen=True)
class ConceptRow:
    """One concept that is shown for a photo.

    - `rank`: from 1, in the order of the explanation. `target`: the class that is explained.
    - `presence`: the probability that the concept is in the photo; `z_score`, `score`: as in an explanation.
    - `contribution`: how much it counts for the class, in the `unit` of the photo's `ExplainedRow`;
        `contribution_low`, `contribution_high`: its range among small changes of the photo.
    - `peak_x`, `peak_y`, `area`: shares of the whole photo, 0 to 1; `nan` where there is no peak.
    - `layer`: of the map; "" where it joins several. `place_vague`: whether it hardly points anywhere.

    Numbers that do not apply are `nan`.
    """

    id: str
    run: str
    image: str
    rank: int
    target: str
    label: str
    type: str
    presence: float = nan
    z_score: float = nan
    score: float = nan
    contribution: float = nan
    contribution_low: float = nan
    contribution_high: float = nan
    peak_x: float = nan
    peak_y: float = nan
    area: float = nan
    layer: str = ""
    place_vague: bool = False


@dataclass(frozen=True)
class MapRow:
    """One map at the layer's grid: of the class (`rank` 0) or of the concept of a rank.

    `cells` are `rows x columns` float16 numbers, little-endian, row by row; times `scale` they are the raw map.
    """

    id: str
    run: str
    image: str
    kind: str
    rank: int
    label: str
    layer: str
    rows: int
    columns: int
    scale: float
    cells: bytes = field(repr=False)

    @staticmethod
    def packed(values: Float32[np.ndarray, "row column"]) -> tuple[float, bytes]:
        """Return `scale` and `cells` of a map.

        Args:
            values: The raw map.
        """
        scale = float(np.abs(values).max()) or 1.0
        return scale, (values / np.float32(scale)).astype("<f2").tobytes()

    def map(self) -> Float32[np.ndarray, "row column"]:
        """Return the raw map, with a relative error of up to 0.05 % of its highest value.

        Returns:
            Float32 `[rows columns]`.
        """
        return np.frombuffer(self.cells, "<f2").reshape(self.rows, self.columns).astype(np.float32) * self.scale


EXPLANATION_TABLES: dict[str, type] = {
    "predictions": PredictionRow,
    "explained": ExplainedRow,
    "concepts": ConceptRow,
    "maps": MapRow,
}
