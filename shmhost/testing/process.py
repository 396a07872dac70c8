"""A host in a process of its own, and what can go wrong with it. Knows no pytest."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from shmhost.settings.config import default_budget
from shmhost.testing.log import PATIENCE_S, HostLog
from shmprotocol.cli import parse_size
from shmprotocol.errors import HostError, InvalidArgument, QuotaExceeded
from shmprotocol.kernel.constants import GIB
from shmprotocol.wire import messages as m
from shmprotocol.wire.query import Query

# Each host of this process has addresses of its own, so that one client can use several. Parts of the second
# window that a host has by default (`settings.config.WINDOWS`): an embedded host starts with the first.
WINDOW, WINDOW_SIZE, WINDOWS = 0x510000000000, 256 * GIB, 16
MAX_BUDGET = 64 * GIB  # by default: less than a window
_IN_USE: set[int] = set()  # their numbers
_OVERHEAD = 2 * 4096  # bytes that a region is charged beside its payload: a page of header, and its record
_SIZES = ("budget", "spares", "reserve")
_FOREIGN = ("SHMHOST_", "LISTEN_", "NOTIFY_", "WATCHDOG_")  # variables that are not for this host


class HostProcess:
    """A host at a private socket, started at once. A context manager that ends it.

    Settings are those of `shmhost.Config`, such as `budget="64M"` or `log_level="debug"`. Like any host
    it serves every process of this user, at its `socket_path`. It ends with this process, however that ends.
    """

    def __init__(self, **settings: object) -> None:
        self._number = min(set(range(WINDOWS)) - _IN_USE, default=0)
        self.window: tuple[int, int] = (WINDOW + self._number * WINDOW_SIZE, WINDOW_SIZE)
        self._folder = tempfile.mkdtemp(prefix="shmhost-test-")
        self.socket_path: str = os.path.join(self._folder, "host.sock")
        self._policy = os.path.join(self._folder, "policy.toml")
        self._settings = settings
        self._logs: list[HostLog] = []
        self._child: subprocess.Popen[str] | None = None
        _IN_USE.add(self._number)
        try:
            self._write_policy("")
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The number of its process. HostError: it is killed."""
        return self._running().pid

    @property
    def log(self) -> list[str]:
        """The lines that it has logged so far, and its predecessors before it."""
        return [line for log in self._logs for line in log.lines]

    def start(self) -> None:
        """Start it again after `kill`, at the same socket; return when it listens."""
        if self._child is not None:
            raise HostError(f"the host at {self.socket_path} runs already: kill() it first")
        self._child = self._spawn()

    def kill(self) -> None:
        """End it with SIGKILL, as the kernel does when memory is short. Mapped regions stay."""
        child, self._child = self._running(), None
        child.kill()
        self._reap(child)

    def stop(self) -> ExitStack:
        """Stop it with SIGSTOP until `cont`, or until the end of a `with` block: it answers nothing."""
        child = self._running()
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return _undone_by(self.cont)

    def cont(self) -> None:
        """Let it go on after `stop`."""
        if self._child is not None:
            self._child.send_signal(signal.SIGCONT)

    def takeover(self) -> None:
        """Have another process take its place, as in an upgrade: no client notices more than a pause."""
        before = self._running()
        self._child = self._spawn("--takeover")
        self._reap(before)

    def refuse(self, *prefixes: str, **limits: int | str) -> ExitStack:
        """Refuse requests until `allow`, or until the end of a `with` block; what exists stays.

        Creating a name with one of the prefixes is AccessDenied; without any argument, each name is. More of
        something than its limit is QuotaExceeded: `refuse(bytes=0)`, `regions`, `leases`, `connections` and
        the other resources of a policy. Replaces what was refused before.
        """
        self._apply_policy(_policy(prefixes if prefixes or limits else ("",), limits))
        return _undone_by(self.allow)

    def allow(self) -> None:
        """Refuse nothing any more."""
        if self._child is not None:
            self._apply_policy("")

    def fill(self, *, leave: int = 0) -> ExitStack:
        """Use up its budget but for some bytes, until the `with` block ends or the result is closed.

        Then each put of more is QuotaExceeded. No memory is used.
        """
        with ExitStack() as stack:
            query = stack.enter_context(Query(self.socket_path, PATIENCE_S, "shmhost.testing: fill"))
            regions: list[int] = []
            stack.callback(_give_back, query, regions)
            size = _free(query) - leave
            while size > _OVERHEAD:
                try:
                    regions.append(_take(query, size, f"shmhost.testing/fill-{len(regions)}"))
                    size = _free(query) - leave
                except QuotaExceeded:  # there is a limit for each user, too
                    size //= 2
            return stack.pop_all()

    def close(self) -> None:
        """End it, and remove its folder. May be called again."""
        child, self._child = self._child, None
        if child is not None:
            child.send_signal(signal.SIGCONT)
            child.terminate()
            self._reap(child)
        _IN_USE.discard(self._number)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> HostProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<HostProcess at {self.socket_path}, {f'pid {self._child.pid}' if self._child else 'killed'}>"

    def _running(self) -> subprocess.Popen[str]:
        if self._child is None:
            raise HostError(f"the host at {self.socket_path} was killed: start() it first")
        return self._child

    def _spawn(self, *options: str) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        child = subprocess.Popen(
            [sys.executable, "-m", "shmhost.testing", self._config(), *options],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert child.stderr is not None
        log = HostLog(child.stderr)
        self._logs.append(log)
        try:
            log.wait("listening on")
        except BaseException:
            child.kill()
            self._reap(child)
            raise
        return child

    def _config(self) -> str:
        settings = {
            "socket_path": self.socket_path,
            "policy": self._policy,
            "budget": min(default_budget(), MAX_BUDGET),
            "windows": (self.window,),
            **self._settings,
        }
        sizes = {name: parse_size(str(settings[name])) for name in _SIZES if name in settings}
        return json.dumps({**settings, **sizes})

    @staticmethod
    def _reap(child: subprocess.Popen[str]) -> None:
        try:
            child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise
        finally:
            assert child.stdin is not None
            child.stdin.close()

    def _write_policy(self, text: str) -> None:
        with open(os.open(self._policy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)

    def _apply_policy(self, text: str) -> None:
        child, log = self._running(), self._logs[-1]
        self._write_policy(text)
        start = len(log.lines)
        child.send_signal(signal.SIGHUP)
        line = log.wait(f"policy {self._policy}: ", "the policy stays as it was", start=start)
        if "stays" in line:
            raise InvalidArgument(line)


def _undone_by(function: Callable[[], None]) -> ExitStack:
    stack = ExitStack()
    stack.callback(function)
    return stack


def _take(query: Query, size: int, name: str) -> int:
    """Have a region charged with at most this many bytes; return its number."""
    payload = (size - _OVERHEAD) // 4096 * 4096
    return query.ask(m.Create(2, name, payload, "full", "memfd", 0o600, True), m.Created).region


def _give_back(query: Query, regions: Sequence[int]) -> None:
    """Free regions that are being created: at the end of their connection the host does so a moment later."""
    with contextlib.suppress(OSError):  # the host was killed meanwhile
        for region in regions:
            query.tell(m.Abort(3, region, False))
        query.measure()


def _free(query: Query) -> int:
    measured = query.measure()
    return measured.budget - measured.used


def _policy(prefixes: Sequence[str], limits: dict[str, int | str]) -> str:
    """Return rules for everybody: the host's own user must be named, or they are not for it."""
    people = (f"users = [{os.geteuid()}]\n", "")
    title = 'title = "refuse() of a test"\n'
    tables = []
    if prefixes:
        listed = json.dumps(list(prefixes))
        tables += [f"[[names]]\n{title}{each}prefixes = {listed}\nallow = false\n" for each in people]
        tables += [f"[[names]]\n{each}" for each in people if "" not in prefixes]
    if limits:
        values = "".join(f"{name} = {json.dumps(value)}\n" for name, value in limits.items())
        tables += [f"[[limits]]\n{title}{each}{values}" for each in people]
    return "\n".join(tables)
