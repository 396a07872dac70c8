"""iceoryx2: a publish-subscribe service for each name."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy

from benchmarks.machine import version
from benchmarks.peers.base import Peer, Session, Site, Unsupported

READERS = 10  # of a channel; each adds to the memory that it reserves, which is untouched
LONGEST_S = 3600
MANY = 2000


class Iceoryx(Session):
    def __init__(self, site: Site) -> None:
        import iceoryx2

        self._iox: Any = iceoryx2
        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        self._prefix = f"{site.prefix}iox_"
        self._folder = (
            f"/dev/shm/{site.prefix}nodes"  # a subscriber syncs a file: on a disk that takes longer
        )
        os.makedirs(self._folder, exist_ok=True)
        config = iceoryx2.config.default()
        config.global_cfg.prefix = self._iox.FileName.new(self._prefix)
        config.global_cfg.root_path = self._iox.Path.new(self._folder)
        self._node = self._iox.NodeBuilder.new().config(config).create(self._iox.ServiceType.Ipc)
        self._publishers: dict[str, tuple[Any, Any]] = {}
        self._subscribers: dict[str, Any] = {}
        self._services: dict[str, Any] = {}
        self._samples: dict[str, Any] = {}
        self._notifier: Any = None

    def _builder(self, name: str) -> Any:
        return self._node.service_builder(self._iox.ServiceName.new(name))

    def _service(self, name: str) -> Any:
        builder = self._builder(name).publish_subscribe(self._iox.Slice[ctypes.c_uint8])
        builder = builder.history_size(1).subscriber_max_buffer_size(1).subscriber_max_borrowed_samples(2)
        builder = builder.max_publishers(1).max_subscribers(READERS).max_nodes(READERS + 3)
        return builder.enable_safe_overflow(True).open_or_create()

    def put(self, name: str, data: bytes) -> str:
        service = self._service(name)
        builder = service.publisher_builder().initial_max_slice_len(len(data)).max_loaned_samples(1)
        self._publishers[name] = (service, builder.create())
        return self.replace(name, data)

    def replace(self, name: str, data: bytes) -> str:
        sample = self._publishers[name][1].loan_slice_uninit(len(data))
        ctypes.memmove(sample.payload_ptr, data, len(data))
        sample.assume_init().send()
        return name

    def remove(self, name: str) -> None:
        self._publishers.pop(name)[1].delete()

    def attach(self, key: str) -> int:
        if key not in self._services:
            self._services[key] = self._service(key)
        self._services[key].subscriber_builder().create().delete()
        return 0

    def subscribe(self, key: str) -> None:
        for former in (self._samples.pop(key, None), self._subscribers.pop(key, None)):
            if former is not None:
                former.delete()
        self._subscribers[key] = self._service(key).subscriber_builder().create()

    def hold(self, key: str) -> memoryview:
        if (old := self._samples.pop(key, None)) is not None:
            old.delete()
        self._samples[key] = self._subscribers[key].receive()
        view = self._samples[key].payload().as_memory_view()
        readable: Any = numpy.frombuffer(view, "u1")  # memoryview cannot read the format of ctypes
        return memoryview(readable)

    def again(self, key: str) -> object:
        if self._subscribers[key].has_samples():
            self.hold(key)
        return self._samples[key].payload().as_memory_view()

    def put_many(self, values: dict[str, bytes]) -> list[str]:
        if len(values) > MANY:
            raise Unsupported("opens several files for each channel, in all more than a process may")
        return super().put_many(values)

    def get_many(self, keys: Sequence[str]) -> int:
        raise Unsupported("gets no value that was sent before, unless its publisher acts")

    def _event(self, name: str) -> Any:
        return self._builder(name + "/event").event().open_or_create()

    def announce(self, name: str, data: bytes) -> None:
        if self._notifier is None:
            self._notifier = self._event(name).notifier_builder().create()
        self.replace(name, data)
        self._notifier.notify()

    def watch(self, name: str) -> Iterator[Any]:
        listener = self._event(name).listener_builder().create()
        self.subscribe(name)
        while True:
            if listener.timed_wait(self._iox.Duration.from_secs(LONGEST_S)):
                with suppress(AttributeError):  # the values of two events came as one
                    yield self.hold(name)

    def watch_loop(self, name: str) -> Any:
        raise Unsupported(
            "a listener of the Python binding has no file descriptor; its WaitSet blocks a thread"
        )

    def close(self) -> None:
        self._samples.clear()
        self._subscribers.clear()
        self._publishers.clear()
        self._services.clear()
        self._notifier = None
        del self._node
        for path in Path("/dev/shm").glob(f"{self._prefix}*"):
            path.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)  # the other processes of the benchmark end too


def installed() -> str:
    import iceoryx2  # noqa: F401

    return version("iceoryx2")


PEER = Peer(
    "iceoryx2",
    "iceoryx2",
    "a publish-subscribe channel for each name, `loan_slice_uninit` + `send`, `receive`; an event for notice",
    installed,
    Iceoryx,
    more=(
        "To replace is to send into an open channel, from memory that the channel recycles: no system call. "
        "A put of a new name makes the channel.",
        "Attach makes and deletes a subscriber of a channel that the process has opened; the value itself "
        "comes when the publisher sends next or updates its connections.",
        "A blackboard of ten thousand keys, the other documented road for many values, did not come up "
        "within 100 s: the Python binding compares keys by a function in Python.",
        "A channel has one largest size of a value and a fixed number of readers; there are no rights within "
        "a user.",
    ),
)
