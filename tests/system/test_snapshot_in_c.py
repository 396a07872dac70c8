"""Snapshots in C, without a host: mapped where the region was, or refused."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cffi
import pytest

import shmclient
import shmhost
from native_support import STRICT, WAYS
from snapshot_support import forge, header_field

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
ffi = cffi.FFI()
ffi.cdef("struct node { struct node *next; int64_t number; };")

READER = """
#include <stdio.h>
#include "shm_snapshot.h"

struct node {
        const struct node *next;
        int64_t number;
};

int main(int argc, char **argv)
{
        const struct shm_region_header *header;
        const struct node *node;
        int fd = open(argv[argc - 1], O_RDONLY);
        int error = shm_snapshot_map(fd, &header);

        if (error) {
                printf("%s\\n", strerror(-error));
                return 1;
        }
        printf("%s", header->name);
        for (node = (const struct node *)header->root; node != NULL; node = node->next)
                printf(" %lld", (long long)node->number);
        printf("\\n");
        return shm_region_unmap(header) ? 1 : 0;
}
"""


def build(shm: shmclient.Client) -> None:
    with shm.create("list", 4096) as builder:
        node = ffi.NULL
        for number in range(4):
            node = builder.new(ffi, "struct node *", {"next": node, "number": number})
        builder.set_root(node)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("saved") / "f"
    with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
        build(shm)
        shm.save("list", file)
    return file.read_bytes()


@pytest.fixture(scope="module", params=WAYS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("reader")
    (folder / "reader.c").write_text(READER)
    subprocess.run([*WAYS[request.param], *STRICT, folder / "reader.c", "-o", folder / "reader"], check=True)
    return folder / "reader"


def read(program: Path, file: Path) -> str:
    return subprocess.run([program, file], capture_output=True, text=True, timeout=50).stdout.strip()


def test_pointers_are_valid_with_no_host(program: Path, saved: bytes, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(saved)
    assert read(program, tmp_path / "f") == "list 3 2 1 0"


@pytest.mark.parametrize(
    ("offset", "patch", "text"),
    [
        (0, b"x", "Bad message"),
        (8, b"\2", "Protocol not supported"),
        (12, b"\1", "Protocol not supported"),
        (16, b"\xff" * 8, "Bad message"),
        (header_field(20), b"\x22", "Bad message"),  # it would grow
        (header_field(24), b"\0" * 8, "Bad message"),
        (header_field(40), b"\xff" * 8, "Bad message"),
        (header_field(64), b"\1" * 8, "Bad message"),
    ],
)
def test_forged_file_is_refused(
    program: Path, saved: bytes, tmp_path: Path, offset: int, patch: bytes, text: str
) -> None:
    file = tmp_path / "f"
    file.write_bytes(saved)
    forge(file, offset, patch)
    assert read(program, file) == text


def test_file_of_another_size_is_refused(program: Path, saved: bytes, tmp_path: Path) -> None:
    for size in (0, 79, 80, 4096, 8191, 8192, len(saved) - 1, len(saved) - 4096):
        (tmp_path / "f").write_bytes(saved[:size])
        assert read(program, tmp_path / "f") == "Bad message"
    (tmp_path / "f").write_bytes(saved + b"1")
    assert read(program, tmp_path / "f") == "Bad message"
