"""What the tests of pins share: a C structure, for cffi and for ctypes, and files."""

from __future__ import annotations

import ctypes
import mmap

import cffi

CONTENT = bytes(range(256)) * 64  # of the file
FFI = cffi.FFI()
FFI.cdef(
    """
    struct node { int number; struct node *next; const char *word; unsigned char *bytes; int (*call)(int); };
    union both { void *pointer; int number; };
    struct iovec { void *iov_base; size_t iov_len; };
    """
)


class CNode(ctypes.Structure):
    """The same for ctypes."""

    _fields_ = [
        ("number", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("word", ctypes.c_char_p),
        ("bytes", ctypes.POINTER(ctypes.c_ubyte)),
    ]


def mapped_file() -> mmap.mmap:
    return mmap.mmap(-1, 4096)
