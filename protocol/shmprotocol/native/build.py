"""Builds `shmprotocol._native` from the C sources; their text between the cffi marks is the `cdef`."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import cffi

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
FOLDER = Path(__file__).resolve().parent
ABI = FOLDER.parent / "abi"
SOURCES = (
    ABI / "shm_abi.h",
    ABI / "shm_board.h",
    ABI / "shm_arena_layout.h",
    FOLDER / "exporter.c",
    *(FOLDER / f"{name}.c" for name in ("address_space", "memory_object", "posix", "pinning", "pointers")),
    *(
        FOLDER / f"{name}.c"
        for name in ("arguments", "shortcut", "put", "state", "nonblocking", "dict_index")
    ),
    *(FOLDER / f"{name}.c" for name in ("threads", "dict_make", "board", "current", "opened", "sealed")),
    *(FOLDER / f"{name}.c" for name in ("late", "trip", "loose", "space", "kept", "home")),
    *(FOLDER / f"{name}.c" for name in ("again", "restored", "returning", "keeper", "holding", "haul")),
    *(FOLDER / f"{name}.c" for name in ("kept_object", "leased")),
    *(FOLDER / f"{name}.c" for name in ("attach", "lane_put", "lane", "assign", "closing")),
    *(FOLDER / f"{name}.c" for name in ("apart", "sealing", "naming")),
    *(FOLDER / f"arena_{name}.c" for name in ("value", "reader", "names", "await", "sleep")),
    *(FOLDER / f"arena_{name}.c" for name in ("owner", "check", "put", "loan", "types")),
    FOLDER / "filling.c",
    FOLDER / "arrow.c",
    FOLDER / "arrow_slices.c",
    FOLDER / "dlpack.c",
    FOLDER / "builtins.c",
    FOLDER / "gil.c",
)
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]


def declarations(source: Path) -> str:
    """Return the text between the cffi marks of a source file."""
    text = source.read_text(encoding="utf-8")
    return "".join(part.split("/* cffi: end */")[0] for part in text.split("/* cffi: begin */")[1:])


def make_ffi() -> cffi.FFI:
    """Return the builder of the extension. `$SHM_CFLAGS` adds compiler and linker flags (sanitizers)."""
    flags = os.environ.get("SHM_CFLAGS", "").split()
    ffi = cffi.FFI()
    for source in SOURCES:
        ffi.cdef(declarations(source))
    ffi.set_source(
        "shmprotocol.native._native",
        "".join(f'#include "{source.name}"\n' for source in SOURCES),
        include_dirs=[str(ABI), str(FOLDER)],
        # Py_buffer is in the stable ABI from 3.11 on; so one wheel serves every later version. Free-threaded
        # CPython has no stable ABI before 3.15 (PEP 803).
        define_macros=[] if FREE_THREADED else [("Py_LIMITED_API", "0x030b0000")],
        extra_compile_args=["-std=gnu11", "-O2", *WARNINGS, *flags],
        extra_link_args=flags,
    )
    return ffi


ffibuilder: cffi.FFI = make_ffi()
