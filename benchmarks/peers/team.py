"""The processes of one peer, as the runner sees them: a server, an owner that publishes, users that read."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.peers.base import Absent, Peer, Site, Unsupported
from benchmarks.processes import ROOT

ANSWER_S = 60.0
END_S = 10.0


class Failed(Exception):
    """A step of a peer failed, or its process died; the text goes into the table."""


class Worker:
    """One worker process. `ask` sends a step and waits; `send` and `answer` do it apart."""

    def __init__(self, key: str, site: Site, cpu: int) -> None:
        command = ["taskset", "-c", str(cpu), sys.executable, "-m", "benchmarks.peers.worker"]
        self._log = open(site.path(f"{key}.log"), "ab")  # noqa: SIM115 closed by close()
        self._child = subprocess.Popen(
            [*command, key, site.folder, site.prefix, str(site.cpu)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            process_group=0,
            bufsize=0,
        )
        self._buffer = b""
        self.pid = self._child.pid

    def send(self, step: str, **arguments: Any) -> None:
        """Start a step."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps({"step": step, **arguments}).encode() + b"\n")
        except BrokenPipeError:
            raise Failed("its process has ended") from None

    def answer(self, expected: str = "ok") -> Any:
        """Wait for the result of a step: Unsupported, Absent, or Failed, if it has none."""
        reply = self._reply()
        if "unsupported" in reply:
            raise Unsupported(reply["unsupported"])
        if "absent" in reply:
            raise Absent(reply["absent"])
        if expected not in reply:
            raise Failed(str(reply.get("failed", reply)))
        return reply[expected]

    def ask(self, step: str, **arguments: Any) -> Any:
        """Run a step."""
        self.send(step, **arguments)
        return self.answer()

    def _reply(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        while b"\n" not in self._buffer:
            if not select.select([self._child.stdout], [], [], ANSWER_S)[0]:
                self._child.kill()
                raise Failed(f"no answer within {ANSWER_S:.0f} s")
            data = os.read(self._child.stdout.fileno(), 1 << 20)
            if not data:
                raise Failed(f"its process ended with {self._child.wait()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def close(self) -> None:
        """End the process: by the end of its input, and by force if that takes long."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()
        try:
            self._child.wait(END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()
        self._log.close()


class Team:
    """A peer that runs: the pids of its server, its version, and workers by their role."""

    def __init__(self, peer: Peer, site: Site, cpus: tuple[int, int], stack: ExitStack) -> None:
        self.peer = peer
        self.site = site
        self.cpus = cpus
        self._stack = stack
        self.servers = stack.enter_context(peer.serve(site)) if peer.serve else []
        (self.owner, self.version), (self.user, _) = self.worker(cpus[0]), self.worker(cpus[0])

    def worker(self, cpu: int) -> tuple[Worker, str]:
        """Start one more worker, that ends with the team; returns it and the version of the peer."""
        (worker,) = self.workers([cpu])
        return worker

    def workers(self, cpus: list[int]) -> list[tuple[Worker, str]]:
        """Start several workers at once."""
        workers = [Worker(self.peer.key, self.site, cpu) for cpu in cpus]
        for worker in workers:
            self._stack.callback(worker.close)
        return [(worker, worker.answer()) for worker in workers]

    @property
    def pids(self) -> list[int]:
        return [*self.servers, self.owner.pid, self.user.pid]

    def log(self) -> str:
        """Return the last line that a process of the peer wrote to its error output."""
        path = Path(self.site.path(f"{self.peer.key}.log"))
        lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
        return lines[-1] if lines else ""


@contextlib.contextmanager
def team(peer: Peer, site: Site, cpus: tuple[int, int]) -> Iterator[Team]:
    """Start a peer for the length of a block: Absent or Failed if it does not run."""
    with ExitStack() as stack:
        try:
            started = Team(peer, site, cpus, stack)
        except (ImportError, RuntimeError, OSError) as error:
            raise Absent(f"{type(error).__name__}: {error}") from error
        yield started


def memory_kib(pids: list[int], field: str) -> int:
    """Sum up a field of `smaps_rollup` of processes, such as Pss or Anonymous."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            if name == field:
                total += int(value.split()[0])
    return total
