"""A private host in a thread of this process: for tests, notebooks and programs that bring their own.

The thread owns the host, its loop and its folder; the handle can only ask it to stop. So closing a handle,
even in a destructor or at the end of the program, never waits for an event that cannot happen any more.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from typing import NoReturn

import anyio

from shmhost.machine.abandoned import FOLDER_PREFIX, SOCKET, remove_abandoned
from shmhost.serving.server import Host, backend_options
from shmhost.settings.config import WINDOWS, Config, default_budget
from shmprotocol.wire.paths import AnyPath

LOG = logging.getLogger("shmhost")
EXIT_S = 5.0  # the end of the program waits this long for a host: freeing 10 GiB of regions takes about 1 s


class _Serving:
    """A host's thread. It keeps itself until the host has ended, with or without a handle."""

    def __init__(self, config: Config, folder: str | None) -> None:
        self.config = config
        self.process: int = os.getpid()
        self._folder = folder
        self._started: Future[tuple[asyncio.AbstractEventLoop, Host]] = Future()
        self._ended: Future[None] = Future()
        # A daemon: the interpreter would wait for any other thread before it calls what ends this one.
        threading.Thread(target=self._run, name="shmhost", daemon=True).start()
        self._loop, self._host = self._started.result()

    def started(self, value: Host | None = None) -> None:
        """Note that the host listens: this object is the `task_status` of its `serve`."""
        assert value is not None
        _SERVING.add(self)
        self._started.set_result((asyncio.get_running_loop(), value))

    def stop(self) -> None:
        """Make the host stop soon. Never waits; safe in a destructor, on any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the host has ended
            self._loop.call_soon_threadsafe(self._host.stop)

    def wait(self, timeout_s: float | None) -> None:
        """Return when the host has stopped; raise its error if `stop` was not the cause. TimeoutError."""
        self._ended.result(timeout_s)

    def has_ended(self) -> bool:
        """Whether the host is gone."""
        return self._ended.done()

    def _run(self) -> None:
        try:
            anyio.run(self._serve, backend="asyncio", backend_options=backend_options())
        except BaseException as error:
            self._end(error)
        else:
            self._end(None)

    async def _serve(self) -> None:
        await Host(self.config).serve(task_status=self)

    def _end(self, error: BaseException | None) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        _SERVING.discard(self)
        for future in (self._started, self._ended):
            if not future.done():
                if error is None:
                    future.set_result(None)  # type: ignore[arg-type]  # `_ended`: the other one is done
                else:
                    future.set_exception(error)


_SERVING: set[_Serving] = set()  # the hosts of this process, and of the one that it was forked from


def _end_all() -> None:
    """Stop the hosts that the program left open, and wait for them."""
    serving = [each for each in list(_SERVING) if each.process == os.getpid()]
    for each in serving:
        each.stop()
    for each in serving:
        try:
            each.wait(EXIT_S)
        except Exception as error:
            LOG.warning("the embedded host at %s did not stop cleanly: %r", each.config.socket_path, error)


# When the main thread has ended, and before the interpreter waits for the others: one that waits for news of
# a private host gets HostGone, where it would wait for ever. `atexit` is later than that, and runs at all
# events. concurrent.futures uses the same hook since Python 3.9.
getattr(threading, "_register_atexit", atexit.register)(_end_all)


class EmbeddedHost:
    """A host that runs in a thread of this process; clients connect to its `socket_path`.

    A context manager that closes it. A handle that is collected while its host runs closes it too, with a
    ResourceWarning. In a forked child it is the parent's: nothing that the child does ends the host.
    """

    def __init__(self) -> None:
        raise TypeError("an EmbeddedHost has no constructor: use shmhost.start() or shmhost.embedded()")

    def _start(self, serving: _Serving) -> None:
        self._serving = serving

    @property
    def socket_path(self) -> str:
        """The path of its socket."""
        return self._serving.config.socket_path

    def close(self) -> None:
        """End the host and wait for that. May be called again, and from any thread.

        All its regions are gone from the host, and its socket too; what clients have mapped stays readable.
        """
        if self._serving.process == os.getpid():
            self._serving.stop()
            self._serving.wait(None)

    def __enter__(self) -> EmbeddedHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        serving: _Serving | None = getattr(self, "_serving", None)
        if serving is None or is_finalizing():
            return
        if serving.process == os.getpid() and not serving.has_ended():
            serving.stop()
            text = f"{self!r} was garbage-collected while running: call close()"
            warnings.warn(text, ResourceWarning, stacklevel=2, source=self)

    def __reduce__(self) -> NoReturn:
        remedy = "pass its socket_path, and connect in the other process"
        raise TypeError(f"an EmbeddedHost cannot be pickled or copied: {remedy}")

    def __repr__(self) -> str:
        state = ", ended" if self._serving.has_ended() else ""
        return f"<EmbeddedHost at {self.socket_path}{state}>"


def start(
    *,
    socket_path: AnyPath | None = None,
    socket_mode: int = 0o660,
    windows: tuple[tuple[int, int], ...] = WINDOWS,
    budget: int | None = None,
    metrics: str = "",
) -> EmbeddedHost:
    """Start a host in a thread of this process; it runs until its `close`, or the end of the program.

    Works in a script, in a notebook, and while an event loop runs in this thread. Without `socket_path` the
    socket lies in a new private folder, in $XDG_RUNTIME_DIR or the folder for temporary files. A process that
    is killed leaves that folder behind, and so does one that a signal ends which it does not handle, such as
    SIGTERM; the next host of this kind removes it a minute later, and its files in /dev/shm.
    `budget` is how many bytes all regions may have, by default 80% of the machine's or cgroup's memory less
    36 MiB; a window is (base, size); `metrics` is a port of this machine or the path of another socket.

    HostError: it cannot start. InvalidArgument: a setting is wrong.
    """
    folder = None
    if socket_path is None:
        parent = _runtime_folder() or tempfile.gettempdir()
        remove_abandoned(parent)
        folder = tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent)
        socket_path = os.path.join(folder, SOCKET)
    try:
        config = Config(
            socket_path=os.fsdecode(socket_path),
            socket_mode=socket_mode,
            windows=windows,
            budget=default_budget() if budget is None else budget,
            metrics=metrics,
        )
    except BaseException:
        if folder is not None:
            os.rmdir(folder)
        raise
    host = EmbeddedHost.__new__(EmbeddedHost)
    host._start(_Serving(config, folder))
    return host


embedded = start  # by this name in `with` statements: `with shmhost.embedded() as host:`


def _runtime_folder() -> str | None:
    """Return the user's own folder for sockets, which goes at the log-out; None where there is none."""
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    return folder if os.path.isabs(folder) and os.access(folder, os.W_OK | os.X_OK) else None
