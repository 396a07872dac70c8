"""The C header: what a compiler makes of it, and what it refuses to map."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmprotocol
from header_support import CAPACITY, GOOD
from shmhost.core.objects import Memfd
from shmprotocol.abi.header import FLAG_SEAL_FULL, FLAG_SEAL_WRITER
from shmprotocol.native import _native
from shmprotocol.wire.names import MAX_METADATA

FOLDER = Path(shmprotocol.__file__).parent
ABI = FOLDER / "abi"
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{ABI}"]
WAYS = {
    "c11": ["cc", "-std=c11"],
    "c++17": ["c++", "-x", "c++", "-std=c++17"],
    "sanitized": ["cc", "-std=c11", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}
PROGRAM = r"""
#include "shm_abi.h"
#include <stdio.h>

/* probe FD: map it, print -errno or the payload's first bytes. probe FD block SIZE: with a blocker. */
int main(int argc, char **argv)
{
        const struct shm_region_header *header;
        char *blocker = NULL;
        int fd, error;

        if (argc < 2)
                return 2;
        fd = atoi(argv[1]);
        if (argc > 2)
                blocker = (char *)mmap((void *)0x550000001000, 4096, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (blocker != NULL)
                blocker[0] = 'B';
        error = shm_region_map(fd, &header);
        if (error) {
                printf("%d %c\n", error, blocker != NULL ? blocker[0] : '-');
                return 0;
        }
        printf("%p %s %.4s\n", (const void *)header, header->name, (const char *)header->data);
        return shm_region_unmap(header);
}
"""
FIND = r"""
#include "shm_abi.h"
#include <stdio.h>
int main(int argc, char **argv)
{
        for (int i = 1; i < argc; i++)
                printf("%d\n", shm_region_fd(argv[i]));
        return 0;
}
"""
LATE = r"""
#include <stdio.h>
#include <sys/mman.h>
#include <fcntl.h>
#include "shm_abi.h"
int main(void)
{
        const struct shm_region_header *header;
        return shm_region_map(shm_region_fd("none"), &header) == -EBADF ? 0 : 1;
}
"""
# Print size and offset of each field, which the test writes in.
LAYOUT = r"""
#include "shm_abi.h"
#include <stdio.h>
#define FIELD(name) printf("%zu %zu " #name "\n", offsetof(struct shm_region_header, name), \
                           sizeof(((struct shm_region_header *)0)->name));
int main(void)
{
        @FIELDS@
        printf("%zu\n", sizeof(struct shm_region_header));
        return 0;
}
"""
# Map FD, with a page of our own behind it; say so; wait for a line; unmap; see whether our page is there.
CANARY = r"""
#include "shm_abi.h"
#include <stdio.h>
int main(int argc, char **argv)
{
        const struct shm_region_header *header;
        char *canary = (char *)mmap((void *)0x550000002000, 4096, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        int error = argc == 2 ? shm_region_map(atoi(argv[1]), &header) : -EINVAL;

        if (error)
                return 1;
        canary[0] = 'C';
        puts("mapped");
        fflush(stdout);
        if (getchar() != '\n')
                return 2;
        printf("%s %d\n", header->name, (int)header->capacity);
        error = shm_region_unmap(header);
        printf("%d %c\n", error, canary[0]);
        return 0;
}
"""


def compile_program(way: str, source: str, folder: Path, name: str, *flags: str) -> Path:
    if shutil.which(WAYS[way][0]) is None:
        pytest.skip(f"there is no compiler {WAYS[way][0]!r}")
    path = folder / f"{name}-{way}.c"
    path.write_text(source)
    subprocess.run([*WAYS[way], *STRICT, *flags, path, "-o", path.with_suffix("")], check=True)
    return path.with_suffix("")


@pytest.fixture(scope="module", params=WAYS)
def probe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(request.param, PROGRAM, tmp_path_factory.mktemp("probe"), "probe")


@pytest.fixture
def sealed() -> Iterator[Memfd]:
    memfd = Memfd("x", CAPACITY)
    os.pwrite(memfd.writer(), b"DATA", 4096)
    memfd.publish(GOOD.pack(), "full")
    yield memfd
    memfd.close()


def run(program: Path, *arguments: object, fds: tuple[int, ...] = (), **environ: str) -> str:
    return subprocess.run(
        [program, *map(str, arguments)],
        pass_fds=fds,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    ).stdout


def unsealed(content: bytes, size: int = CAPACITY) -> int:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    os.pwrite(descriptor, content, 0)
    return descriptor


def sealed_with(content: bytes, size: int = CAPACITY) -> int:
    descriptor = unsealed(content, size)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def test_region_is_mapped_at_its_own_address(probe: Path, sealed: Memfd) -> None:
    assert run(probe, sealed.reader(), fds=(sealed.reader(),)) == "0x550000000000 a/b DATA\n"


def test_blocker_is_unharmed_when_the_address_is_taken(probe: Path, sealed: Memfd) -> None:
    assert run(probe, sealed.reader(), "block", fds=(sealed.reader(),)) == f"{-errno.EEXIST} B\n"


@pytest.mark.parametrize("descriptor", [-1, 999])
def test_map_refuses_what_is_no_descriptor(descriptor: int, probe: Path) -> None:
    assert run(probe, descriptor) == f"{-errno.EBADF} -\n"


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: unsealed(GOOD.pack()), errno.EPERM),
        (lambda: sealed_with(b""), errno.EBADMSG),
        (lambda: sealed_with(b"short", 100), errno.EBADMSG),
        (lambda: sealed_with(b"", 0), errno.EBADMSG),
        (lambda: sealed_with(GOOD.pack(), CAPACITY * 2), errno.EBADMSG),
        (lambda: sealed_with(GOOD.pack(), 4096), errno.EBADMSG),
        (lambda: sealed_with(GOOD.pack()[:8] + b"\x02" + GOOD.pack()[9:]), errno.EPROTONOSUPPORT),
    ],
    ids=["unsealed", "zeros", "short", "empty", "larger", "smaller", "other version"],
)
def test_map_refuses_what_is_no_region(make: object, error: int, probe: Path) -> None:
    descriptor = make()  # type: ignore[operator]
    assert run(probe, descriptor, fds=(descriptor,)) == f"{-error} -\n"
    os.close(descriptor)


@pytest.mark.parametrize("way", ["c11", "c++17"])
def test_header_can_come_after_those_of_libc(way: str, tmp_path: Path) -> None:
    assert run(compile_program(way, LATE, tmp_path, "late")) == ""


def test_descriptor_is_found_by_its_name_only(tmp_path: Path) -> None:
    program = compile_program("sanitized", FIND, tmp_path, "find")
    names = ["a", "a/b", "with space", "b", "", "last", "nine", "x"]
    regions = "3 a/b\n4 a\n5 with space\nnonsense\n-6 b\n 7 x\n99999999999999999999 nine\n8 last"
    numbers = [int(line) for line in run(program, *names, SHM_REGIONS=regions).split()]
    assert numbers == [4, 3, 5, -2, -2, 8, -2, -2]
    assert run(program, "a", SHM_REGIONS="") == "-2\n"


def test_stub_names_what_the_binary_has() -> None:
    import ast

    tree = ast.parse((FOLDER / "native" / "_native.pyi").read_text())
    stub = next(node for node in tree.body if isinstance(node, ast.ClassDef))
    names = {
        node.target.id if isinstance(node, ast.AnnAssign) else node.name  # type: ignore[union-attr]
        for node in stub.body
        if isinstance(node, ast.AnnAssign | ast.FunctionDef)
    }
    assert names == set(dir(_native.lib))


def test_compiled_module_exports_ffi_and_lib_only() -> None:
    assert {name for name in dir(_native) if not name.startswith("__")} == {"ffi", "lib"}


def test_include_prints_the_folder_of_the_header() -> None:
    command = [sys.executable, "-m", "shmprotocol"]
    printed = subprocess.check_output([*command, "--include"], text=True).strip()
    assert (Path(printed) / "shm_abi.h").is_file()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2


@pytest.mark.parametrize("way", ["c11", "c++17"])
def test_compiler_lays_the_header_out_as_cffi_does(way: str, tmp_path: Path) -> None:
    fields = _native.ffi.typeof("struct shm_region_header").fields
    source = LAYOUT.replace("@FIELDS@", "\n".join(f"FIELD({name})" for name, _ in fields))
    layout = [f"{field.offset} {_native.ffi.sizeof(field.type)} {name}" for name, field in fields]
    assert run(compile_program(way, source, tmp_path, "layout")).splitlines() == [*layout, "4096"]


def test_specification_has_the_fields_where_they_are() -> None:
    readme = (FOLDER.parent / "README.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.split("|")] for line in readme.splitlines()]
    table = [
        (row[3], row[1], row[2]) for row in rows if len(row) == 7 and row[1].isdigit() and row[2].isdigit()
    ]
    fields = _native.ffi.typeof("struct shm_region_header").fields
    sizes = [(name, str(f.offset), str(_native.ffi.sizeof(f.type))) for name, f in fields]
    assert table == sizes


@pytest.mark.parametrize("way", ["c11", "c++17"])
def test_header_compiles_when_libc_is_fortified(way: str, tmp_path: Path) -> None:
    """Fortified headers define pread() inline; the header's own declaration must not disturb that."""
    flags = ["-O2", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-D_FILE_OFFSET_BITS=64"]
    assert run(compile_program(way, LATE, tmp_path, "fortified", *flags)) == ""


@pytest.fixture
def scribbled() -> Iterator[tuple[Memfd, mmap.mmap]]:
    """A region with a writer's seal whose creator kept a mapping of the header page."""
    memfd = Memfd("x", CAPACITY)
    with mmap.mmap(memfd.writer(), 4096) as page:
        memfd.publish(GOOD._replace(flags=FLAG_SEAL_WRITER).pack(), "writer")
        yield memfd, page
    memfd.close()


@pytest.mark.parametrize("way", WAYS)
def test_unmap_leaves_other_memory_alone_when_the_writer_has_changed_the_header(
    way: str, scribbled: tuple[Memfd, mmap.mmap], tmp_path: Path
) -> None:
    """The capacity that is unmapped must be the one that was checked, not what the page says by then."""
    memfd, page = scribbled
    program = compile_program(way, CANARY, tmp_path, "canary")
    with subprocess.Popen(
        [program, str(memfd.reader())],
        pass_fds=[memfd.reader()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "mapped\n"
        page[40:48] = struct.pack("<Q", 1 << 20)
        page[144:147] = b"HEY"
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.read() == f"a/b {CAPACITY}\n0 C\n"


def test_map_refuses_metadata_that_the_writer_has_enlarged(probe: Path) -> None:
    """The host has checked its size at publish; with a writer's seal that is no promise."""
    capacity = 4096 + (1 << 20)
    memfd = Memfd("x", capacity)
    header = GOOD._replace(flags=FLAG_SEAL_WRITER, capacity=capacity, size=capacity)
    with mmap.mmap(memfd.writer(), 4096) as page:
        memfd.publish(header.pack(), "writer")
        assert not run(probe, memfd.reader(), fds=(memfd.reader(),)).startswith("-")
        page[136:144] = struct.pack("<Q", MAX_METADATA + 1)
        assert run(probe, memfd.reader(), fds=(memfd.reader(),)) == f"{-errno.EBADMSG} -\n"
    memfd.close()


def test_map_refuses_a_full_seal_that_is_only_a_writers(
    probe: Path, scribbled: tuple[Memfd, mmap.mmap]
) -> None:
    """A flag in the header proves nothing: the creator can write it there."""
    memfd, page = scribbled
    page[20:24] = struct.pack("<I", FLAG_SEAL_FULL)
    assert run(probe, memfd.reader(), fds=(memfd.reader(),)) == f"{-errno.EPERM} -\n"


@pytest.mark.parametrize("arguments", [[], ["--include", "x"], ["-h"], [""]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "shmprotocol", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert "--include" in result.stderr
