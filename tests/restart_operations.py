"""What a client changes at a host, one operation each, for tests that kill the host in the middle."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import shmclient
from restarting import HEARD
from telling import Teller

LARGE = 100_000  # by a spare


def put_small(teller: Teller) -> None:
    for size in (1, 500, 500):
        teller.put("new", size)
    teller.put("new", 500, plain=True)


def put_small_without_holding(teller: Teller) -> None:
    for _ in range(3):
        teller.put("new", 500, hold=False)


def replace_what_is_held(teller: Teller) -> None:
    """Its older value must not come back once the host has said that it has another one."""
    teller.put("new", 500)
    teller.put("new", 500, hold=False)


def replace_what_is_held_by_spare(teller: Teller) -> None:
    for hold in (True, True, False):  # the first one has no spare
        teller.put("new", LARGE, hold=hold)


def put_large(teller: Teller) -> None:
    for _ in range(4):
        teller.put("new", LARGE)


def put_with_reserve(teller: Teller) -> None:
    with reserved(teller):
        for _ in range(3):
            teller.put("new", LARGE)


@contextlib.contextmanager
def reserved(teller: Teller) -> Iterator[None]:
    """Let the client be one that has reserved memory."""
    client = teller.ask(lambda: shmclient.connect(teller.shm.socket_path, reserve=2**20, wait=60))
    first, teller.shm = teller.shm, client or teller.shm
    yield
    if client is not None:
        first.close()


def put_by_shm_open(teller: Teller) -> None:
    for _ in range(2):
        teller.put("new", 5000, backend="shm")


def put_dicts(teller: Teller) -> None:
    for _ in range(2):
        teller.put_dict("new")


def build(teller: Teller) -> None:
    for seal in ("full", "writer", "full"):
        teller.build("new", 5000, seal)


def grow(teller: Teller) -> None:
    for seal in ("writer", "shared"):
        teller.grow_region("new", seal)


def unlink(teller: Teller) -> None:
    for size in (1, LARGE):
        teller.put("new", size)
        teller.unlink("new")
    teller.put("new", 2)


def chmod(teller: Teller) -> None:
    teller.put("new", 100)
    for mode in (0o640, 0o604, 0o600):
        if teller.names["new"].sure is not None:
            teller.chmod("new", mode)


def lease(teller: Teller) -> None:
    for _ in range(2):
        # With a wait: after a restart it takes some milliseconds until the bystander has handed it back.
        region = teller.ask(lambda: teller.shm.open(HEARD, wait=30))
        if region is not None:
            region.close()
        teller.ask(lambda: bytes(teller.shm.get(HEARD, wait=30)))
        for region in teller.ask(lambda: teller.shm.open_many([HEARD, HEARD], wait=30)):
            region.close()
        teller.ask(teller.shm.list)


def own_arena(teller: Teller) -> None:
    teller.own("cave")
    if "cave" in teller.arenas:
        for _ in range(2):
            teller.grow("cave")
            teller.put_in("cave")


ALL: dict[str, Callable[[Teller], None]] = {
    operation.__name__: operation
    for operation in (
        put_small,
        put_small_without_holding,
        replace_what_is_held,
        replace_what_is_held_by_spare,
        put_large,
        put_with_reserve,
        put_by_shm_open,
        put_dicts,
        build,
        grow,
        unlink,
        chmod,
        lease,
        own_arena,
    )
}
