"""A client whose user has as many descriptors in flight as the kernel allows, and that hands back."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import shmclient
from shmprotocol.wire.query import Query
from support import Machine, wait_until

USER = 65533  # no other test's: the limit is one of all processes of a user
HOLDER = f"""
import os, resource, socket, sys
import numpy, shmclient
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
os.setgroups([])
os.setresgid({USER}, {USER}, {USER})
os.setresuid({USER}, {USER}, {USER})
shm = shmclient.connect(sys.argv[1])
value = shm.get("x")
before = len(os.listdir("/proc/self/fd"))
print("holds", flush=True)
sys.stdin.readline()
first, second = socket.socketpair()
try:
    while True:
        socket.send_fds(first, [b"x"], [0] * 64)
except OSError as error:
    print(error.errno, flush=True)
sys.stdin.readline()
first.close()
second.close()
sys.stdin.readline()
assert bytes(shm.get("x")) == bytes(value) == b"1" * 5000
print(len(os.listdir("/proc/self/fd")) - before, flush=True)
"""


def clients(path: str) -> int:
    with Query(path) as query:
        return sum(account.clients for account in query.measure().accounts if account.uid == USER)


def names(path: str) -> list[str]:
    with Query(path) as query:
        return [info.name for info in query.regions("")]


def test_region_is_handed_back_when_the_kernel_takes_descriptors_again(folder: Path) -> None:
    folder.chmod(0o755)
    machine = Machine(folder / "h.sock")
    machine.start()
    Path(machine.path).chmod(0o666)
    with shmclient.connect(machine.path) as shm:
        shm.put("x", b"1" * 5000, mode=0o604).close()
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLDER, machine.path]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        machine.kill()
        holder.stdin.write("fill\n")
        assert int(holder.stdout.readline()) == errno.ETOOMANYREFS
        machine.start()
        Path(machine.path).chmod(0o666)
        wait_until(lambda: clients(machine.path) == 1)
        assert names(machine.path) == []
        holder.stdin.write("empty\n")
        wait_until(lambda: names(machine.path) == ["x"])
        holder.stdin.write("look\n")
        assert int(holder.stdout.readline()) <= 1  # the connection of the client, which came again
        holder.stdin.close()
    machine.kill()
