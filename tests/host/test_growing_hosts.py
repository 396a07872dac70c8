"""Regions that have grown, over the end of their host: killed, replaced, restarted by a manager."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import shmclient
from native_support import STRICT, WAYS
from service_support import Service
from shmhost.core.stored import entry_of
from shmprotocol import abi
from support import Machine, wait_until
from takeover_support import line_of_hosts

PAGE = 4096
MAX = 1 << 20


def grown(shm: shmclient.Client, seal: Any = "writer") -> Any:
    """Return the builder of a region that has grown to 100,000 bytes at least, of MAX."""
    with shm.create("log", 1000, max_size=MAX, seal=seal) as builder:
        builder.data[:3] = b"old"
    builder.region.resize(100_000)
    builder.data[99_999] = 7
    return builder


def check(shm: shmclient.Client, builder: Any, address: int) -> None:
    """See that it is as it was, and grows on, charged as before, and no further than to its max_size."""
    info = shm.stat("log")
    assert (info.address, info.size, info.capacity) == (address, 102_400, 102_400 + PAGE)
    with shm.open("log") as region:
        assert (bytes(region.data[:3]), region.data[99_999]) == (b"old", 7)
        region.resize(500_000)
        builder.data[499_999] = 8
        assert region.data[499_999] == 8
        assert region.resize(MAX) == MAX
        with pytest.raises(shmclient.InvalidArgument):
            region.resize(MAX + 1)


@pytest.mark.parametrize("seal", ["writer", "shared"])
def test_successor_has_it_grow(folder: Path, seal: str) -> None:
    with line_of_hosts(folder / "h") as line, shmclient.connect(line.path) as shm:
        builder = grown(shm, seal)
        address = builder.address
        line.take_over()
        check(shm, builder, address)
        line.take_over()
        assert shm.stat("log").size == MAX


@pytest.mark.parametrize("seal", ["writer", "shared"])
def test_region_that_grew_is_handed_back(machine: Machine, seal: str) -> None:
    with shmclient.connect(machine.path) as shm:
        builder = grown(shm, seal)
        address = builder.address
        machine.kill()
        machine.start()
        with shmclient.connect(machine.path, wait=30) as other:
            other.get("log", wait=30)
            check(other, builder, address)
        machine.kill()
        machine.start()
        with shmclient.connect(machine.path, wait=30) as other:
            other.get("log", wait=30)
            assert (other.stat("log").size, other.stat("log").capacity) == (MAX, MAX + PAGE)


def test_creation_that_can_grow_moves_to_a_successor(folder: Path) -> None:
    with line_of_hosts(folder / "h") as line, shmclient.connect(line.path) as shm:
        with shm.create("log", 1000, max_size=MAX, seal="writer") as builder:
            line.take_over()
            builder.data[:3] = b"old"
        assert builder.region.resize(MAX) == MAX


def test_regions_that_have_ended_do_not_keep_a_host_from_its_successor(folder: Path) -> None:
    with line_of_hosts(folder / "h") as line, shmclient.connect(line.path) as shm:
        for options in ({"keep": False}, {"max_size": MAX, "seal": "writer"}):
            for _ in range(2):  # the second replaces the first
                with shm.create("log", 1000, **options):  # type: ignore[arg-type]
                    pass
            shm.unlink("log")
        line.take_over()
        assert shm.list() == []


def test_region_that_grew_is_stored(manager: Service) -> None:
    with shmclient.connect(manager.path) as shm:
        address = grown(shm).address
        number = shm.stat("log").number
    wait_until(lambda: manager.names() == [entry_of(number)])
    manager.restart(signal.SIGKILL)
    with shmclient.connect(manager.path) as shm, shm.open("log") as region:
        assert (region.address, region.size, region.data[99_999]) == (address, 102_400, 7)
        assert region.resize(MAX) == MAX


READER = """
#include <stdio.h>
#include "shm_abi.h"

int main(int argc, char **argv)
{
        const struct shm_region_header *header;
        int fd = shm_region_fd("log");
        int64_t size, more;
        const char *data;

        if (argc > 1 || fd < 0 || (argc = shm_region_map(fd, &header)) != 0) {
                printf("%s: %d\\n", argv[0], argc);
                return 1;
        }
        data = (const char *)header->data;
        size = shm_region_size(fd, header);
        printf("%lld %d\\n", (long long)size, data[size - 1]);
        fflush(stdout);
        while (getchar() != EOF) { /* a line for each time that it has grown */
                more = shm_region_size(fd, header);
                printf("%lld %d\\n", (long long)more, data[more - 1]);
                fflush(stdout);
        }
        return shm_region_unmap(header) ? 1 : 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("way", WAYS)
def test_reader_in_c_follows(way: str, shm: shmclient.Client, tmp_path: Path) -> None:
    source, program = tmp_path / "reader.c", tmp_path / "reader"
    source.write_text(READER)
    headers = Path(abi.__file__).parent
    subprocess.run([*WAYS[way], *STRICT, f"-I{headers}", source, "-o", program], check=True)
    with shm.create("log", 1, max_size=MAX, seal="writer") as builder:
        builder.data[:] = b"\1" * builder.size
    builder.region.resize(builder.size + 1)
    builder.data[-1] = 2
    descriptor = builder.region.fileno()
    environ = {**os.environ, "SHM_REGIONS": f"{descriptor} log\n"}
    with subprocess.Popen(
        [program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env=environ,
        pass_fds=[descriptor],
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline().split() == [str(builder.size), "2"]
        for number, size in enumerate((50_000, MAX), 3):
            builder.region.resize(size)
            builder.data[-1] = number
            child.stdin.write("\n")
            assert child.stdout.readline().split() == [str(builder.size), str(number)]
        child.stdin.close()
        assert child.wait(timeout=30) == 0


def grow_on(path: str, ends: threading.Event, sizes: list[int]) -> None:
    """Have a region grow, page by page, over whatever happens to its host, and use all of it."""
    with shmclient.connect(path, wait=30) as shm:
        with shm.create("log", 1, max_size=1 << 30, seal="writer") as builder:
            pass
        while not ends.is_set():
            try:
                sizes.append(builder.region.resize(builder.size + 1))
            except (shmclient.HostGone, shmclient.RegionNotFound):  # it is handed back in a moment
                time.sleep(0.001)
            builder.data[-1] = 1  # SIGBUS if the page were not there
        assert sizes == sorted(sizes)
        with shm.open("log", wait=30) as region:
            assert region.size == builder.size == shm.stat("log").size


@pytest.mark.parametrize("way", ["killed", "taken over"])
def test_host_that_ends_in_the_middle_of_growing_loses_nothing(
    folder: Path, way: str, machine: Machine
) -> None:
    ends, sizes = threading.Event(), list[int]()
    with line_of_hosts(folder / "h") as line, ThreadPoolExecutor() as pool:
        grower = pool.submit(grow_on, line.path if way == "taken over" else machine.path, ends, sizes)
        for _ in range(3):
            count = len(sizes)
            wait_until(lambda count=count: grower.done() or len(sizes) > count + 50)
            line.take_over() if way == "taken over" else machine.restart()
        ends.set()
        grower.result(30)
    assert sizes[-1] > 150 * PAGE
