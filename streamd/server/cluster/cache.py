"""The folder of a node's state, which is a cache: all of it comes from the logs of the cluster, and is made anew.

It lies in the state folder, beside the files that the daemon has while it is alone, which stay as they are.
"""

import shutil
from pathlib import Path

from streamd.core.errors import StateError
from streamd.runtime.state.folder import STATE_LOCK_NAME, StateFolder

CACHE_NAME = "cluster"


def empty_cache(state_dir: Path) -> Path:
    """Remove what a former run left in the cache, and return its folder.

    Raises `StateError` if another process has it open, or it cannot be removed.
    """
    folder = state_dir / CACHE_NAME
    lock = StateFolder(folder)
    try:
        for path in folder.iterdir():
            if path.name == STATE_LOCK_NAME:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as exc:
        raise StateError(f"{folder}: cannot be emptied: {exc.strerror or exc}") from exc
    finally:
        lock.close()
    return folder
