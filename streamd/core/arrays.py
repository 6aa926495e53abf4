"""The aliases of array types that annotations share. Shapes are in the docstrings of their users, not here."""

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Times = npt.NDArray[np.float64]
"""Seconds."""
Slots = npt.NDArray[np.int64]
"""Slots of servers: their places in the arrays of the state."""
