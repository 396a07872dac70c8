"""Builds `shmprotocol._native`: the C headers, whose text between the cffi marks is the `cdef`."""

from __future__ import annotations

import os
from pathlib import Path

import cffi

HEADERS = ("shm_abi.h", "_native.h", "_memory.h", "_posix.h", "_pinning.h", "_pointers.h")
FOLDER = Path(__file__).resolve().parent
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]


def declarations(header: str) -> str:
    """Return what stands between the cffi marks of a header."""
    text = (FOLDER / header).read_text(encoding="utf-8")
    return "".join(part.split("/* cffi: end */")[0] for part in text.split("/* cffi: begin */")[1:])


def make_ffi() -> cffi.FFI:
    """Return the builder of the extension. `$SHM_CFLAGS` adds compiler and linker flags (sanitizers)."""
    flags = os.environ.get("SHM_CFLAGS", "").split()
    ffi = cffi.FFI()
    for header in HEADERS:
        ffi.cdef(declarations(header))
    ffi.set_source(
        "shmprotocol._native",
        "".join(f'#include "{header}"\n' for header in HEADERS),
        include_dirs=[str(FOLDER)],
        # Py_buffer is in the stable ABI from 3.11 on; so one wheel serves every later version.
        define_macros=[("Py_LIMITED_API", "0x030b0000")],
        extra_compile_args=["-std=gnu11", "-O2", *WARNINGS, *flags],
        extra_link_args=flags,
    )
    return ffi


ffibuilder = make_ffi()
