"""The stress tests of the seeds (F50): 600 objects, each with its own child; `make torture` has 10 rounds."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections import deque
from pathlib import Path

import pytest

from shmclient import posix
from support import count_descriptors, mapped_addresses

OBJECTS, AT_ONCE = 600, 24
PAGE = 4096
# Map the descriptor, add its number to each word that the parent wrote, and say whether all was as announced.
CHILD = r"""
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
int main(int argc, char **argv)
{
        int fd = argc == 4 ? atoi(argv[1]) : -1;
        uint64_t pages = (uint64_t)atoi(argv[2]), seed = strtoull(argv[3], NULL, 10), i;
        uint64_t *words = (uint64_t *)mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        if (words == MAP_FAILED)
                return 2;
        for (i = 0; i < pages * 512; i++) {
                if (words[i] != seed + i)
                        return 3;
                words[i] = seed * 3 + i;
        }
        return 0;
}
"""

pytestmark = [
    pytest.mark.stress,
    pytest.mark.timeout(240),
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
]


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stress")
    (folder / "child.c").write_text(CHILD)
    subprocess.run(["cc", "-O1", "-Wall", "-Werror", folder / "child.c", "-o", folder / "child"], check=True)
    return folder / "child"


class Shared:
    """One object, mapped here, and the child that works on it."""

    def __init__(self, program: Path, backend: str, seed: int) -> None:
        self.seed, self.pages = seed, 1 + seed % 3
        self.fd = posix.memfd_create(f"stress-{seed}", backend=backend)
        posix.ftruncate(self.fd, self.pages * PAGE)
        self.mapping = posix.mmap(0, self.pages * PAGE, posix.PROT_RDWR, posix.MAP_SHARED, self.fd)
        words = self.mapping.buffer.cast("Q")
        words[:] = memoryview(b"".join((seed + i).to_bytes(8, "little") for i in range(len(words)))).cast("Q")
        arguments = [program, str(self.fd), str(self.pages), str(seed)]
        self.child = subprocess.Popen(arguments, pass_fds=[self.fd])

    def finish(self) -> None:
        assert self.child.wait(60) == 0
        words = self.mapping.buffer.cast("Q")
        assert [words[0], words[-1]] == [self.seed * 3, self.seed * 3 + len(words) - 1]
        assert sum(words) == sum(range(self.seed * 3, self.seed * 3 + len(words)))
        words.release()
        posix.munmap(self.mapping)
        posix.close(self.fd)


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.torture)])
@pytest.mark.parametrize("backend", ["memfd", "shm"])
def test_thousands_of_objects_are_shared_with_a_child_each(child: Path, backend: str, rounds: int) -> None:
    chance = random.Random(backend)
    before = count_descriptors(), mapped_addresses()
    for _ in range(rounds):
        running: deque[Shared] = deque()
        for _ in range(OBJECTS):
            running.append(Shared(child, backend, chance.randrange(1 << 32)))
            if len(running) == AT_ONCE:
                running.popleft().finish()
        while running:
            running.popleft().finish()
        assert (count_descriptors(), mapped_addresses()) == before
