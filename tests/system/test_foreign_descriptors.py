"""A descriptor of any foreign kind, wherever one is taken: an error that says so, no fault, hang or leak."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest

import operations
import shmclient
from foreign import KINDS, usable
from native_support import ROOT, STRICT, WAYS
from operations import HEARD, SIZE
from shmhost.serving.given import take_given
from shmprotocol.errors import InvalidArgument
from support import WatchedHost, count_descriptors, in_child, wait_until
from swapper import Swapper

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "fuzz"
NAMES = usable()
SILENT = {"stream socket", "datagram socket", "packet socket"}  # control sockets of a host that says nothing


@pytest.fixture
def scene(host: WatchedHost) -> Iterator[WatchedHost]:
    with shmclient.connect(host.socket_path) as shm:
        shm.put(HEARD, b"h" * 1000).close()
        with shm.arena("camera", SIZE) as camera:
            camera["front"] = np.full(1000, 7, "u1")
            yield host


def run(name: str, path: str) -> None:
    """Do an operation; an error of ours is what must come of a descriptor that is wrong."""
    with suppress(shmclient.ShmError):
        operations.child(name, path)()
    gc.collect()


def attack(name: str, host: str, path: str, number: int, kind: str, more: int = 0) -> int:
    """Do an operation at a host that sends another descriptor as its n-th; return how many it sent."""
    before = count_descriptors()
    with ExitStack() as stack:
        other = KINDS[kind](stack)
        swapper = Swapper(path, host, lambda index: other if index == number else None)
        run(name, path)
        swapper.close()
    os.unlink(path)
    wait_until(lambda: gc.collect() >= 0 and threading.active_count() == 1)
    wait_until(
        lambda: count_descriptors() <= before + more,
        shown=lambda: (name, number, kind, before, count_descriptors()),
    )
    return swapper.count


def attack_all(name: str, host: str, path: str) -> None:
    operations.begin = lambda: None  # type: ignore[assignment]
    names = [kind for kind in NAMES if "arena" not in name or kind not in SILENT]
    kinds = iter(names * 50)
    attack(name, host, path, -1, NAMES[0], 100)  # and whatever the first one keeps for good
    count, number = attack(name, host, path, -1, NAMES[0]), 0
    assert count > 0
    while number < count:
        for kind in names if IS_LONG else [next(kinds) for _ in range(4)]:
            print(f"{name}: {kind} as descriptor {number}", flush=True)
            signal.alarm(45)
            attack(name, host, path, number, kind)
        number += 1


@pytest.mark.parametrize("name", [name for name in operations.NAMES if "trio" not in name])
def test_client_refuses_what_a_hostile_host_sends(name: str, scene: WatchedHost, tmp_path: Path) -> None:
    assert in_child(lambda: attack_all(name, scene.socket_path, str(tmp_path / "s"))) == 0


# --- what a program inherits, and what a service manager passes


@pytest.mark.parametrize("kind", NAMES)
def test_native_reader_refuses_an_inherited_descriptor(kind: str, programs: Path) -> None:
    with ExitStack() as stack:
        fd = KINDS[kind](stack)
        shm_regions = {"SHM_REGIONS": f"{fd} a"}
        line = f"{fd} {fd} {fd} 1 1 1048576 1048576 {0x550000000000} -1 -1 a"
        reader = f"{fd} -1 {fd} 1 1 1048576 1048576 {0x550000000000} {fd} {fd} a"
        for name, environ in (
            ("reader", shm_regions),
            ("producer", {"SHM_ARENAS": line}),
            ("consumer", {"SHM_ARENAS": reader}),
        ):
            command = [programs / name, "a", *(["front", "1"] if name == "consumer" else [])]
            if name == "producer" and kind in SILENT:
                continue
            run = subprocess.run(
                command, env=environ, pass_fds=[fd], capture_output=True, timeout=20, check=False
            )
            assert run.returncode in (1, 2, 3), (name, run)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    for name in ("reader", "producer", "consumer"):
        source = ROOT / "examples" / f"{name}.c"
        subprocess.run([*WAYS["sanitized"], *STRICT, source, "-o", folder / name], check=True)
    return folder


@pytest.mark.parametrize("kind", [kind for kind in NAMES if kind != "listening socket"])
def test_listener_of_a_service_manager_that_is_not_one_is_refused(kind: str) -> None:
    def take() -> None:
        with ExitStack() as stack:
            os.dup2(KINDS[kind](stack), 3)
            with pytest.raises(InvalidArgument, match="descriptor 3"):
                take_given({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}, os.getpid())

    assert in_child(take) == 0
