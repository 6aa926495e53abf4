"""The aliases of array types that annotations share. Shapes are in the docstrings of their users, not here."""

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
