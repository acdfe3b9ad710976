"""How often workers may die at the same photos, and what is said then."""

from __future__ import annotations

from collections.abc import Sequence

from conceptlens.io.errors import InputError

# Attempts at a batch at which workers die.
MAX_ATTEMPTS = 3


def too_many_deaths(names: Sequence[str], batches: Sequence[range]) -> InputError:
    """Return the error that ends a run at whose photos workers die.

    Args:
        names: What the photos of the run are called.
        batches: The batches that the last worker had.
    """
    return InputError(
        f"workers died {MAX_ATTEMPTS} times at the photos {names[batches[0].start]} to "
        f"{names[batches[-1].stop - 1]}, as they do where memory runs out; take a smaller batch or fewer workers, and "
        "resume the run"
    )
