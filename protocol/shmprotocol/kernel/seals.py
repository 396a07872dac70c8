"""The seals of memory objects, see fcntl(2)."""

from __future__ import annotations

import errno
import fcntl
import time

WAITED_S = 0.05  # an attempt that took longer has waited for pages in use


def add_seals(descriptor: int, seals: int) -> None:
    """Add seals to an object. OSError: EBUSY if it has a writable mapping, or pages of it stay in use.

    The kernel may find a page in use though nobody has done anything. † It waits for 0.16 s then, and gives
    up, in 1 of 30,000 puts of 1 MiB (Linux 6.18, 2026-11). So that is tried again, once, as in
    `native/sealed.c`.
    """
    began_s = time.monotonic()
    try:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except OSError as error:
        if error.errno != errno.EBUSY or time.monotonic() - began_s < WAITED_S:
            raise
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
