"""The host of `shmclient.shared_memory`: that of $SHMHOST_SOCKET, or else the user's own, started on demand.

The standard library needs no daemon, and a program whose import changes shall not need one either. The own
host is at a path that all programs of a user compute alike, whichever of them, parent or child, comes first.
It ends when nobody has been connected to it for IDLE_S.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import TypeVar

from shmclient.client import Client, connect
from shmprotocol.errors import AccessDenied, HostGone
from shmprotocol.wire.paths import SOCKET_VARIABLE

IDLE_S = 60  # a worker may make a segment, end, and leave it to a parent that is not connected yet
START_S = 30.0  # an interpreter and its imports take 0.5 s, on a loaded machine many times that
# Not those of `shmhost serve`: a program can be a client of both hosts.
WINDOWS = ("0x554000000000:64G", "0x500000000000:1T")
_FOLDER, _SOCKET = "shmhost", "shared_memory.sock"
T = TypeVar("T")

_clients: dict[str, Client] = {}  # of this process, by path; a forked child's reconnect by themselves


def ask(question: Callable[[Client], T]) -> T:
    """Ask this process's client. HostGone: none is at $SHMHOST_SOCKET, if that is set, or none can start."""
    path = os.environ.get(SOCKET_VARIABLE)
    if path is not None:
        return question(_client(path, connect))
    path = own_path(os.environ)
    client = _client(path, _connect_or_start)
    try:
        return question(client)
    except HostGone:  # it was killed; the client hands what this process has to the next one
        _connect_or_start(path).close()
        return question(client)


def own_path(environ: Mapping[str, str]) -> str:
    """Return the socket of the user's own host: in $XDG_RUNTIME_DIR, or a private temporary folder."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and os.access(runtime, os.W_OK | os.X_OK):
        return os.path.join(runtime, _FOLDER, _SOCKET)
    return os.path.join(tempfile.gettempdir(), f"{_FOLDER}-{os.geteuid()}", _SOCKET)


def _client(path: str, make: Callable[[str], Client]) -> Client:
    client = _clients.get(path)
    if client is None:
        fresh = make(path)
        client = _clients.setdefault(path, fresh)  # atomic: a lock would have to be free in forked children
        if client is not fresh:
            fresh.close()
    return client


def _connect_or_start(path: str) -> Client:
    _check_folder(os.path.dirname(path))
    try:
        return connect(path)
    except HostGone:
        _start(path)
    try:
        return connect(path, wait=START_S)
    except TimeoutError:
        raise HostGone(
            f"the host for shared memory did not start at {path}: see {path}.log; or start `shmhost serve` "
            f"and set ${SOCKET_VARIABLE}"
        ) from None


def _check_folder(folder: str) -> None:
    """Make the folder of the socket, or raise AccessDenied if another user could put a host there."""
    os.makedirs(folder, 0o700, exist_ok=True)
    status = os.lstat(folder)
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
    if not is_own:
        raise AccessDenied(
            f"{folder} is not a folder that uid {os.geteuid()} alone can write: remove it, or set "
            f"${SOCKET_VARIABLE} to the socket of a host"
        )


def _start(path: str) -> None:
    """Start a host that outlives this process; if two do at once, one of the hosts ends at once."""
    if not sys.executable:
        raise HostGone(
            "this program does not know its interpreter, to start a host by it: start `shmhost serve`, and "
            f"set ${SOCKET_VARIABLE}"
        )
    windows = [word for window in WINDOWS for word in ("--window", window)]
    options = ["--socket", path, "--socket-mode", "600", "--until-idle", str(IDLE_S), *windows]
    command = [sys.executable, "-P", "-m", "shmhost", "serve", "--log-level", "warning", *options]
    # Nothing of this program's but its PATH and its Python: neither its host's settings nor its service's.
    strange = ("SHMHOST_", "NOTIFY_", "LISTEN_", "WATCHDOG_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
    # A shell in between: the host is not a child of this process, which would have to wait for it.
    shell = ["/bin/sh", "-c", '"$@" </dev/null >/dev/null 2>"$0" &', f"{path}.log", *command]
    subprocess.run(shell, check=True, cwd="/", env=environ, start_new_session=True)
