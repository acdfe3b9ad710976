"""Whether the tables of a fit fit into the free memory."""

from __future__ import annotations

from conceptlens.io.errors import InputError

TABLES = 7  # numbers of 4 bytes for each photo and concept: targets twice, activations in single and double precision


def check_memory(photos: int, concepts: int, channels: int = 0, masks: int = 1, columns: int = 0) -> None:
    """Refuse tables that do not fit into the free memory.

    Held at a time are, in numbers of 4 bytes: `TABLES` for each photo and concept, the pooled cells
    `photos x masks x channels` and as much again for the photos that are not held out, the concept vectors
    `concepts x channels` with a gradient and two moments, and the `columns` of single cells. All others
    are read in batches.
    """
    import psutil  # comes with accelerate

    tables = TABLES * photos * concepts + 2 * photos * masks * channels + 4 * concepts * channels
    needed = 4 * (tables + columns)
    free = psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"{concepts} concepts of {photos} photos need about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} "
            "GB are free; give fewer concepts or fewer photos"
        )
