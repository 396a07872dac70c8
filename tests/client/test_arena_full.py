"""An arena that is full: what its error says, and that it stays as it was."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

import shmclient
from arena_support import CAMERA_SIZE
from shmclient import Arena, ArenaFull
from support import WatchedHost, wait_until

PUTS: dict[str, Callable[[Arena, int], object]] = {
    "put": lambda arena, size: arena.__setitem__("x", bytes(size)),
    "put_many": lambda arena, size: arena.put_many({"x": bytes(size)}),
    "array": lambda arena, size: arena.__setitem__("x", np.zeros(size - 100, "u1")),
    "loan": lambda arena, size: arena.loan("x", size).__enter__(),
    "build": lambda arena, size: arena.build("x", size).__enter__(),
}


@pytest.mark.parametrize("way", PUTS)
def test_full_arena_names_the_size_that_did_not_fit_and_what_is_free(way: str, arena: Arena) -> None:
    """In holes between values, of which the largest counts."""
    for number in range(6):
        arena[f"n{number}"] = bytes(1 << 20)
    for name in ("n0", "n2", "n3"):
        del arena[name]
    with pytest.raises(ArenaFull, match=r"'x', which needs \d+ bytes: .* at most \d+ are free") as caught:
        PUTS[way](arena, CAMERA_SIZE - 4096)
    numbers = [int(number) for number in re.findall(r"\d+", str(caught.value))]
    needed, used, size, names, largest = numbers[:5]
    assert needed >= CAMERA_SIZE - 4200
    assert (size, names) == (CAMERA_SIZE, 3)
    assert used >= 3 << 20
    with pytest.raises(ArenaFull, match=f"needs {largest + 1} bytes"):
        arena["x"] = bytes(largest + 1)
    arena["x"] = bytes(largest)


def test_full_arena_names_who_holds_what(arena: Arena, host: WatchedHost) -> None:
    program = (
        "import sys, shmclient; shm = shmclient.connect(sys.argv[1]); held = []\n"
        "for line in sys.stdin: held.append(shm.get('camera/x')); print(len(held), flush=True)"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", program, host.socket_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    try:
        with pytest.raises(ArenaFull, match=f"pid {reader.pid} uses") as caught:
            for number in range(20):
                arena["x"] = np.full(1 << 17, number)
                reader.stdin.write("hold\n")
                reader.stdin.flush()
                assert reader.stdout.readline() == f"{number + 1}\n"
        assert "no room for 'x'" in str(caught.value)
        reader.kill()
        reader.wait()
        wait_until(lambda: _fits(arena))  # the host sees the death, and tells the owner
    finally:
        reader.kill()
        reader.communicate()


def _fits(arena: Arena) -> bool:
    try:
        arena["x"] = np.zeros(1 << 17)
    except ArenaFull:
        return False
    return True


def test_too_large_a_value_leaves_the_arena_as_it_was(arena: Arena, other: shmclient.Client) -> None:
    arena["x"] = b"1"
    with pytest.raises(ArenaFull):
        arena["x"] = bytes(CAMERA_SIZE)
    with pytest.raises(ArenaFull):
        arena["new"] = bytes(CAMERA_SIZE)
    assert (bytes(other.get("camera/x")), list(arena)) == (b"1", ["x"])
