"""Keeps objects of foreign libraries alive if destroying them would end the process.

A last resort: each caller says why it needs it.
"""

import ctypes
from typing import Any


def leak_deliberately(*kept: Any) -> None:
    """Let objects live as long as the process; not even the interpreter destroys them when it ends.

    Their resources, mostly memory of a device, are lost to the process.
    """
    for each in kept:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))
