"""The aliases of array types that annotations share. Nothing else belongs here; shapes stand in the docstrings."""

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
