"""How closely two computations of the same numbers agree, stated once for all tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

# Relative to each value, and to the largest of all values. Another batch size, kernel, thread count or processor sums
# in another order, which moves a value by some units in its last place, and one of many cancelled terms by as many
# units of the largest.
TOLERANCES = {
    torch.float64: (1e-9, 1e-11),
    torch.float32: (1e-4, 1e-5),
    torch.bfloat16: (2e-2, 1e-2),
    torch.float16: (2e-3, 1e-3),
}


def assert_agree(found: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> None:
    """Fail where two arrays of one shape and type differ by more than rounding does; other types are to be equal."""
    a, b = _tensor(found), _tensor(expected)
    relative, of_largest = TOLERANCES.get(b.dtype, (0.0, 0.0))
    finite = b[b.isfinite()].double().abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    torch.testing.assert_close(a, b, rtol=relative, atol=of_largest * largest, equal_nan=True)


def _tensor(values: Any) -> Tensor:
    return (values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))).detach()
