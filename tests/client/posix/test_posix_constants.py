"""The constants of `shmclient.posix`: that all are there, and that their values are the C compiler's."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import stat
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from shmclient import posix
from shmclient.posix import constants

# Every name that the Go package ro-ag/posix has (but the flags of mount(2)), by group, and what it lacks.
GROUPS = {
    "errno": "EINVAL EAGAIN ENOENT EFAULT EPERM EBUSY",
    "open": "O_RDWR O_CREAT O_EXCL O_NOFOLLOW O_RDONLY O_WRONLY O_ACCMODE O_CLOEXEC",
    "protection": "PROT_NONE PROT_READ PROT_WRITE PROT_EXEC PROT_RDWR",
    "mode": "S_IRUSR S_IWUSR S_IXUSR S_IRGRP S_IWGRP S_IXGRP S_IROTH S_IWOTH S_IXOTH S_IRWXU S_IRWXG "
    "S_IRWXO S_IREAD S_IWRITE S_IEXEC S_ISUID S_ISGID S_ISVTX FP_SPECIAL",
    "file type": "S_IFMT S_IFIFO S_IFCHR S_IFDIR S_IFBLK S_IFREG S_IFLNK S_IFSOCK",
    "memfd": "MFD_CLOEXEC MFD_ALLOW_SEALING MFD_HUGETLB MFD_HUGE_64KB MFD_HUGE_512KB MFD_HUGE_1MB "
    "MFD_HUGE_2MB MFD_HUGE_8MB MFD_HUGE_16MB MFD_HUGE_32MB MFD_HUGE_256MB MFD_HUGE_512MB "
    "MFD_HUGE_1GB MFD_HUGE_2GB MFD_HUGE_16GB MFD_HUGE_MASK MFD_HUGE_SHIFT",
    "mlockall": "MCL_CURRENT MCL_FUTURE",
    "madvise": "MADV_NORMAL MADV_RANDOM MADV_SEQUENTIAL MADV_WILLNEED MADV_DONTNEED MADV_HUGEPAGE "
    "MADV_NOHUGEPAGE MADV_HWPOISON MADV_MERGEABLE MADV_UNMERGEABLE MADV_DOFORK MADV_DONTFORK "
    "MADV_REMOVE",
    "mmap": "MAP_ANON MAP_ANONYMOUS MAP_FILE MAP_FIXED MAP_NORESERVE MAP_PRIVATE MAP_SHARED "
    "MAP_DENYWRITE MAP_EXECUTABLE MAP_GROWSDOWN MAP_HUGETLB MAP_LOCKED MAP_NONBLOCK "
    "MAP_POPULATE MAP_STACK MAP_TYPE MAP_32BIT",
    "msync": "MS_ASYNC MS_INVALIDATE MS_SYNC",
    "fcntl": "F_GETFD F_SETFD FD_CLOEXEC",
    "seals": "F_SEAL_SEAL F_SEAL_SHRINK F_SEAL_GROW F_SEAL_WRITE F_SEAL_FUTURE_WRITE",
    "limits": "NAME_MAX",
    "missing there": "MAP_FIXED_NOREPLACE MAP_SHARED_VALIDATE MAP_SYNC MFD_NOEXEC_SEAL MFD_EXEC F_SEAL_EXEC "
    "MADV_DONTDUMP MADV_POPULATE_READ MADV_POPULATE_WRITE MREMAP_MAYMOVE MREMAP_FIXED "
    "MREMAP_DONTUNMAP SO_PEERPIDFD",
}
NAMES = [name for group in GROUPS.values() for name in group.split()]
OURS = ("FP_SPECIAL", "PROT_RDWR")  # of no header
PYTHON = {name for module in (errno, fcntl, mmap, os, stat) for name in vars(module)}
LACKING = [name for name in constants.__all__ if name not in PYTHON and name not in OURS]
# linux/fcntl.h and fcntl.h define the same structures, so each half is a program of its own.
HEADERS = {
    "library": "errno.h fcntl.h limits.h sys/mman.h sys/socket.h sys/stat.h",
    "kernel": "linux/fcntl.h linux/mman.h linux/memfd.h asm/socket.h",
}


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[int]]:
    """The values of our names in the system's headers, as far as these have them."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    values: dict[str, set[int]] = {}
    for kind, headers in HEADERS.items():
        for name, value in _printed(compiler, tmp_path_factory.mktemp(kind), headers.split()):
            values.setdefault(name, set()).add(value)
    return values


def _printed(compiler: str, folder: Path, headers: list[str]) -> list[tuple[str, int]]:
    present = [f"#if __has_include(<{header}>)\n#include <{header}>\n#endif\n" for header in headers]
    lines = [
        f'#ifdef {name}\n printf("{name} %lld\\n", (long long)({name}));\n#endif\n'
        for name in constants.__all__
    ]
    text = [
        "#define _GNU_SOURCE 1\n#include <stdio.h>\n",
        *present,
        "int main(void) {\n",
        *lines,
        "return 0; }\n",
    ]
    (folder / "print.c").write_text("".join(text))
    subprocess.run([compiler, "-w", "-o", folder / "print", folder / "print.c"], check=True, timeout=30)
    done = subprocess.run([folder / "print"], check=True, timeout=30, capture_output=True, text=True)
    return [(name, int(value)) for name, value in map(str.split, done.stdout.splitlines())]


# --- names


@pytest.mark.parametrize("group", GROUPS)
def test_every_name_of_a_group_is_there(group: str) -> None:
    assert [name for name in GROUPS[group].split() if not isinstance(getattr(posix, name, None), int)] == []


def test_flags_of_mount_are_not_there() -> None:
    assert sorted(name for name in vars(posix) if name.startswith("MS_")) == GROUPS["msync"].split()


@pytest.mark.parametrize("module", [posix, constants])
def test_public_names_exist_once_and_none_is_private(module: ModuleType) -> None:
    public: list[str] = list(module.__all__)
    assert [name for name in public if not hasattr(module, name)] == []
    assert [name for name in public if name.startswith("_")] == []
    assert len(set(public)) == len(public)


def test_every_constant_is_public() -> None:
    capital = {name for name in vars(constants) if name.isupper() and not name.startswith("_")}
    assert capital == set(constants.__all__)
    assert set(constants.__all__) <= set(posix.__all__)
    assert set(NAMES) <= set(constants.__all__)


def test_import_of_all_gives_the_public_names() -> None:
    space: dict[str, object] = {}
    exec("from shmclient.posix import *", space)
    assert set(space) - {"__builtins__"} == set(posix.__all__)


# --- values


@pytest.mark.parametrize("name", LACKING)
def test_value_that_python_lacks_is_that_of_the_c_headers(name: str, compiled: dict[str, set[int]]) -> None:
    if name not in compiled:
        pytest.skip(f"the system's headers have no {name}")
    assert {getattr(posix, name)} == compiled[name]


def test_values_that_python_has_are_those_of_the_c_headers(compiled: dict[str, set[int]]) -> None:
    names = (set(constants.__all__) & set(compiled)) - set(LACKING)
    assert {name: {getattr(posix, name)} for name in names} == {name: compiled[name] for name in names}
    assert len(names) > 80


@pytest.mark.parametrize(
    ("size", "unit"),
    [(64, "KB"), (512, "KB")]
    + [(size, "MB") for size in (1, 2, 8, 16, 32, 256, 512)]
    + [(size, "GB") for size in (1, 2, 16)],
)
def test_huge_page_flag_is_the_logarithm_of_its_size(size: int, unit: str) -> None:
    length = size << {"KB": 10, "MB": 20, "GB": 30}[unit]
    flag = getattr(posix, f"MFD_HUGE_{size}{unit}")
    assert flag == (length.bit_length() - 1) << 26
    assert flag >> posix.MFD_HUGE_SHIFT & posix.MFD_HUGE_MASK == length.bit_length() - 1


def test_values_that_are_the_same_everywhere() -> None:
    assert (posix.MFD_HUGE_SHIFT, posix.MFD_HUGE_MASK) == (26, 0x3F)
    assert posix.PROT_RDWR == posix.PROT_READ | posix.PROT_WRITE == 3
    assert (posix.PROT_NONE, posix.FP_SPECIAL) == (0, 1)
    assert posix.S_IFMT == 0o170000
    assert posix.EAGAIN == errno.EAGAIN


def test_seals_are_one_bit_each() -> None:
    seals = ("SEAL", "SHRINK", "GROW", "WRITE", "FUTURE_WRITE", "EXEC")
    assert [getattr(posix, f"F_SEAL_{seal}") for seal in seals] == [1, 2, 4, 8, 0x10, 0x20]


def test_values_that_older_headers_lack_are_the_kernels() -> None:
    """include/uapi: asm-generic/mman-common.h, linux/mman.h, linux/memfd.h and asm-generic/socket.h."""
    assert (posix.MAP_FIXED_NOREPLACE, posix.MAP_SHARED_VALIDATE, posix.MAP_SYNC) == (0x100000, 3, 0x80000)
    assert (posix.MADV_POPULATE_READ, posix.MADV_POPULATE_WRITE, posix.MADV_HWPOISON) == (22, 23, 100)
    assert (posix.MFD_NOEXEC_SEAL, posix.MFD_EXEC) == (8, 0x10)
    assert (posix.MREMAP_MAYMOVE, posix.MREMAP_FIXED, posix.MREMAP_DONTUNMAP) == (1, 2, 4)
    assert posix.SO_PEERPIDFD == 77
