"""Leftovers of killed hosts that had folders of their own, at whose paths nobody starts again.

A folder is taken only if its lock can be: then no host lives there, and none can start. The names in /dev/shm
that go with it are those that this lock identifies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import time

from shmhost.machine.shm_names import ShmNames

FOLDER_PREFIX, SOCKET = "shmhost-", "host.sock"
# A host that starts makes its lock file and locks it microseconds later; on a machine that swaps, seconds.
_YOUNG_S = 60.0


def remove_abandoned(folder: str) -> None:
    """Remove the folders in a folder, and their names in /dev/shm, whose hosts are dead. Never waits."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(FOLDER_PREFIX):
                with contextlib.suppress(OSError):  # alive, or somebody else removes it
                    _remove(entry)


def _remove(entry: os.DirEntry[str]) -> None:
    status = entry.stat(follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return
    path = os.path.join(entry.path, f"{SOCKET}.lock")
    lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(lock)
        # Another file may have its number, and so its names, if this one was removed before it was locked.
        if os.path.samestat(status, os.lstat(path)) and time.time() - status.st_mtime > _YOUNG_S:
            ShmNames(f"shmhost-{status.st_dev:x}-{status.st_ino:x}").sweep(_no_name)
            shutil.rmtree(entry.path)
    finally:
        os.close(lock)


def _no_name(_name: str, _device: int, _inode: int) -> bool:
    return False
