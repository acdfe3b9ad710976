"""Deletion and insertion with RISE's own settings, as the authors' code has them: fills and steps cannot be chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conceptlens.metrics.faithfulness import deletion, insertion
from conceptlens.metrics.scored_images import check_scored

if TYPE_CHECKING:
    from conceptlens.metrics.given_maps import Maps
    from conceptlens.metrics.removal_order import TieOrder
    from conceptlens.metrics.scored_images import ScoredImages
    from conceptlens.statistics.score import Score

# What stands in the place of pixels that are removed, or not yet put in.
RISE_FILLS = {"rise_deletion": "zero", "rise_insertion": "rise_blur"}


def rise_deletion(explained: Maps, scored: ScoredImages, ties: TieOrder = "seeded", seed: int = 0) -> Score:
    """Return `deletion` with the settings of RISE's authors: removed pixels become 0; 0 to 1, lower is better.

    Petsiuk et al., BMVC 2018, `evaluation.py` of their code: as many pixels a step as the image has columns, so 224
    steps of 224 x 224 pixels. There equal pixels go as NumPy's sort happens to leave them.

    Args:
        explained: The maps.
        scored: The images, with probabilities; 0 is the mean colour of the training photos where a model subtracts it.
        ties: The order of equal pixels.
        seed: Draws it.

    Returns:
        `values[image question]`, with the fill "zero". One forward pass for each row of pixels, and one for the whole.

    Raises:
        InputError: As in `deletion`.
    """
    check_scored(scored)
    return deletion(explained, scored, RISE_FILLS["rise_deletion"], int(scored.images.shape[2]), ties, seed)


def rise_insertion(explained: Maps, scored: ScoredImages, ties: TieOrder = "seeded", seed: int = 0) -> Score:
    """Return `insertion` with the settings of RISE's authors: it begins with their blur; 0 to 1, higher is better.

    Their blur is a Gaussian of 11 x 11 pixels, standard deviation 5. Steps are those of `rise_deletion`.

    Args:
        explained: The maps.
        scored: The images, with probabilities.
        ties: The order of equal pixels.
        seed: Draws it.

    Returns:
        `values[image question]`, with the fill "rise_blur".

    Raises:
        InputError: As in `insertion`.
    """
    check_scored(scored)
    return insertion(explained, scored, RISE_FILLS["rise_insertion"], int(scored.images.shape[2]), ties, seed)
