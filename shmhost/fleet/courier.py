"""A program: copies values of arenas into sealed regions, as they change. An ordinary client of its host.

`python -m shmhost.fleet.courier SOCKET LAG` is started by `values`, and talks to it over descriptor 0. The
folder of the copies' names is in $SHMHOST_FLEET_FOLDER, which other users do not see.
It has a process of its own, so that what a hostile owner writes is read by nobody who has the regions of
others, and so that a slow copy stops no loop. A value is held while it is copied, as by any reader.

To the host: begin (arena), value, gone, whole (all that was there has been sent), refused; from it: arena,
end, and ack for each value. `number` is that of the arena's region: a new owner has another one.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
import threading
import time
from typing import Any

import cffi
import msgpack

import shmclient
from shmprotocol.errors import ShmError

UNDER_WAY = 4  # values that the host has not taken yet
CONNECT_S = 60.0  # until the host listens
MAX_REASON = 500  # characters
MODE = 0o600  # of the copies; others have the mode of the arena


class Courier:
    """The arenas that are followed, each by a thread."""

    def __init__(self, shm: shmclient.Client, link: socket.socket, folder: str, lag_s: float) -> None:
        self._shm = shm
        self._link = link
        self._folder = folder
        self._lag_s = lag_s
        self._numbers = itertools.count()
        self._credit = threading.Semaphore(UNDER_WAY)
        self._lock = threading.Lock()  # of what is sent
        self._views: dict[str, tuple[int, shmclient.ArenaView]] = {}  # changed by the first thread alone

    def run(self) -> None:
        """Do what the host says, until it is gone."""
        unpacker = msgpack.Unpacker(use_list=False)
        while data := self._link.recv(65536):
            unpacker.feed(data)
            for kind, *values in unpacker:
                if kind == "ack":
                    self._credit.release()
                    continue
                name, number = values
                if name in self._views:
                    self._views.pop(name)[1].close()
                if kind == "arena":
                    self._start(name, number)

    def _start(self, name: str, number: int) -> None:
        try:
            view = self._shm.open_arena(name)
        except ShmError as error:
            self.say("refused", name, number, "", str(error))
            return
        self._views[name] = number, view
        threading.Thread(target=self._follow, args=(name, number, view), daemon=True).start()

    def _follow(self, name: str, number: int, view: shmclient.ArenaView) -> None:
        """Send all that an arena has, and then what changes, until the view is closed."""
        try:
            Arena(self, name, number, view, self._lag_s).follow()
        except ShmError as error:
            if self.is_followed(name, number):
                self.say("refused", name, number, "", str(error))

    def is_followed(self, name: str, number: int) -> bool:
        """Whether the host wants this arena still, and no other one of its name."""
        return self._views.get(name, (0,))[0] == number

    def copy(self, value: Any) -> str:
        """Copy a value into a region of its own, whose name the host takes away; return that."""
        self._credit.acquire()
        try:
            region = f"{self._folder}/{next(self._numbers)}"
            self._shm.put(region, value, mode=MODE).close()
        except BaseException:
            self._credit.release()
            raise
        return region

    def say(self, *values: object) -> None:
        """Send a message to the host."""
        data = msgpack.packb(values)
        with self._lock:
            self._link.sendall(data)


class Arena:
    """One arena that is followed. Each name is sent at most once in `lag_s`: the newest value then."""

    def __init__(
        self, courier: Courier, name: str, number: int, view: shmclient.ArenaView, lag_s: float
    ) -> None:
        self._courier = courier
        self._origin = name, number
        self._view = view
        self._lag_s = lag_s
        self._sent: dict[str, tuple[int, float]] = {}  # by name: generation, and when
        self._start = view.generation
        self._taken = 0  # changes since then that were sent
        self._ffi = cffi.FFI()

    def follow(self) -> None:
        """Send what is there, and what changes."""
        courier, view = self._courier, self._view
        courier.say("begin", *self._origin)
        for name in list(view):
            self._send(name)
        courier.say("whole", *self._origin)
        for change in view.changes(since=self._start):
            if not courier.is_followed(*self._origin):
                return
            generation, sent_s = self._sent.get(change.name, (0, 0.0))
            if change.generation <= generation:
                continue  # a newer one was read already
            time.sleep(max(0.0, sent_s + self._lag_s - time.monotonic()))
            self._taken += 1
            self._send(change.name)

    def _send(self, name: str) -> None:
        try:
            value = self._view.open(name)
        except shmclient.RegionNotFound:
            self._sent.pop(name, None)
            self._courier.say("gone", *self._origin, name)
            return
        self._sent[name] = value.generation, time.monotonic()
        try:
            with value:
                region = self._courier.copy(_movable(value, self._ffi))
        except Exception as error:  # of any library that reads what an owner has written
            self._courier.say("refused", *self._origin, name, f"{error}"[:MAX_REASON] or type(error).__name__)
            return
        skipped = max(0, value.generation - self._start - self._taken)
        is_new = value.generation > self._start
        waited_ns = time.monotonic_ns() - value.published_ns if is_new else 0
        self._courier.say("value", *self._origin, name, region, skipped, waited_ns)


def _movable(value: shmclient.ArenaValue, ffi: cffi.FFI) -> Any:
    """Return a value that can be put elsewhere. TypeError: it has pointers into its arena."""
    result = value.value()
    if isinstance(result, memoryview):
        try:
            value.root(ffi, "char *")
        except ShmError:
            return result
        raise TypeError("it has pointers into its arena, which other hosts do not have: use a region for it")
    return result


def main(path: str, lag: str) -> None:
    """Follow arenas of the host at a socket until that is gone."""
    with socket.socket(fileno=os.dup(0)) as link:
        shm = shmclient.connect(path, wait=CONNECT_S)
        Courier(shm, link, os.environ["SHMHOST_FLEET_FOLDER"], float(lag)).run()
    os._exit(0)  # threads sleep on values


if __name__ == "__main__":
    main(*sys.argv[1:])
