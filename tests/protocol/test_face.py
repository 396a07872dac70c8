"""The names of `shmprotocol` are those of the specification, and are enough for a client of your own."""

from __future__ import annotations

import inspect
import mmap
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmclient
import shmprotocol
from shmprotocol import errors, messages
from shmprotocol.wire import names
from support import WatchedHost

README = Path(__file__).parents[2] / "protocol" / "README.md"


def test_names_are_those_of_the_specification() -> None:
    section = README.read_text("utf-8").split("\n## 16. ")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    documented = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(documented) == sorted(shmprotocol.__all__)


def test_each_name_is_there_once() -> None:
    assert len(set(shmprotocol.__all__)) == len(shmprotocol.__all__)
    assert [name for name in shmprotocol.__all__ if not hasattr(shmprotocol, name)] == []


def test_all_errors_and_limits_are_there() -> None:
    classes = [
        name for name, cls in vars(errors).items() if inspect.isclass(cls) and issubclass(cls, Exception)
    ]
    limits = [name for name in vars(names) if name.startswith("MAX_")]
    enums = ["Seal", "Backend", "State", "ChangeKind"]
    assert {*classes, *limits, *enums} <= set(shmprotocol.__all__)


@pytest.mark.parametrize("module", ["errors", "wire.names", "abi.header", "wire.query", "kernel.status"])
def test_each_room_can_be_imported_first(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import shmprotocol.{module}"], check=True, timeout=30)


def test_face_needs_no_compiled_part() -> None:
    script = "import shmprotocol, sys; sys.exit('shmprotocol.native' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


class OwnClient:
    """A client that uses the public names and the standard library, and nothing else."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(shmprotocol.socket_path(path, {}))
        self.connection = shmprotocol.Connection("client")
        self.messages: Iterator[tuple[messages.Message, list[int]]] = iter(())

    def ask(self, request: messages.Message) -> tuple[messages.Message, list[int]]:
        self.sock.sendall(shmprotocol.pack(request))
        while True:
            for message, descriptors in self.connection.messages():
                if isinstance(message, messages.Refused):
                    raise shmprotocol.refusal(message.code, message.text)
                return message, descriptors
            data, fds, _, _ = socket.recv_fds(self.sock, 65536, shmprotocol.MAX_DESCRIPTORS)
            self.connection.receive(data, fds)


def test_public_names_are_enough_to_read_a_region(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("words", b"hello").close()
    client = OwnClient(host.socket_path)
    with client.sock:
        welcome, _ = client.ask(messages.Hello(1, messages.VERSION, messages.VERSION, "own"))
        opened, [descriptor] = client.ask(messages.Open(2, ("words",), (), False))
        assert isinstance(welcome, messages.Welcome)
        assert isinstance(opened, messages.Opened)
        [grant] = opened.grants
        with (
            open(descriptor, "rb") as file,
            mmap.mmap(file.fileno(), grant.capacity, prot=mmap.PROT_READ) as memory,
        ):
            assert memory[4096 : 4096 + grant.size] == b"hello"
        with pytest.raises(shmprotocol.RegionNotFound, match="missing"):
            client.ask(messages.Open(3, ("missing",), (), False))
