"""What every test needs: torchvision that loads, one thread, a cache of its own."""

from __future__ import annotations

from conceptlens.operators import mend_torchvision

mend_torchvision()
