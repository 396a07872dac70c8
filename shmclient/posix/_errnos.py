"""Error codes of the system: their names, their texts and help. Knows no call that raises one."""

from __future__ import annotations

import errno
import os
import sys
import textwrap

from shmclient.posix._errno_help import HELP

_WIDTH = 78  # columns: a terminal of 80 with room for a mark, and what the Go package wraps at
_USUAL = frozenset({"EAGAIN", "EDEADLK", "EOPNOTSUPP"})  # said first where a number has several names
# include/uapi/asm-generic/errno.h; the errno module has it from Python 3.14 on. madvise raises it.
_EXTRA = {"EHWPOISON": 133} if sys.platform == "linux" else {}


def errno_name(code: int) -> str:
    """Return the usual name of an error code, as "EAGAIN"; ValueError for an unknown code."""
    return errno_names(code)[0]


def errno_names(code: int) -> tuple[str, ...]:
    """Return every name of an error code, the usual one first; ValueError for an unknown code."""
    codes = _EXTRA | vars(errno)
    names = [name for name, value in codes.items() if name.startswith("E") and value == code]
    if not names:
        raise ValueError(f"{code!r} is not an error code of this system: pass the errno of an OSError")
    return tuple(sorted(names, key=lambda name: (name not in _USUAL, name)))


def errno_string(code: int) -> str:
    """Return the C library's text for an error code; ValueError for an unknown code."""
    errno_names(code)
    return os.strerror(code)


def errno_help(code: int) -> str:
    """Return the meaning of an error of the memory calls and the remedy, in lines of at most 78 columns.

    A code that no call of this package raises gets the system's text and says so. ValueError for an unknown
    code.
    """
    texts = [HELP[name] for name in errno_names(code) if name in HELP]
    text = texts[0] if texts else _no_help(code)
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _no_help(code: int) -> str:
    return (
        f"{os.strerror(code)}. None of the calls for memory and descriptors is known to raise "
        f"{errno_name(code)}: see the manual page of the call that did."
    )
