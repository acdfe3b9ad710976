"""The seed of what is drawn at random: checked once, before anything is drawn."""

from __future__ import annotations

import numpy as np
import torch

from conceptlens.io.errors import InputError, InputTypeError

# What PyTorch's generators take.
LARGEST_SEED = 2**64 - 1


def check_seed(seed: object) -> int:
    """Return a seed as an integer.

    Args:
        seed: What was given.

    Raises:
        InputTypeError: It is no integer.
        InputError: It is below 0 or above `LARGEST_SEED`.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise InputTypeError(f"seed is {seed!r}; expected an integer, at least 0")
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"seed is {seed}; expected an integer, at least 0 and at most 2**64 - 1")
    return int(seed)


def seeded_generator(seed: object) -> torch.Generator:
    """Return PyTorch's generator of random numbers on the CPU, from a seed.

    Args:
        seed: The seed.

    Raises:
        InputTypeError: It is no integer.
        InputError: It is out of range.
    """
    return torch.Generator("cpu").manual_seed(check_seed(seed))
