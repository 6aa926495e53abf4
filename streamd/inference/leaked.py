"""Foreign objects that must not be destroyed, because destroying them would end the process."""

import ctypes
from typing import Any


def leak_deliberately(*kept: Any) -> None:
    """Let objects live as long as the process: not even the interpreter's own end drops them.

    What they hold (memory of a device, mostly) is lost to the process.
    """
    for each in kept:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))
