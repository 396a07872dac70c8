"""A network for hosts of a fleet: each has a network namespace, and a switch in this process is between them.

The switch hands IP packets on from one TUN device to another. It can lose some, hold them back, and cut one
direction or both, so that the kernel's TCP meets what it meets on a bad network (sch_netem is not in every
kernel). Nothing is left behind: namespaces and devices go with their descriptors and processes.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK, IFF_UP = 0x8914, 0x8916, 0x891C, 0x1
SUBNET = "10.77.0"
MTU = 1500
libc = ctypes.CDLL(None, use_errno=True)


def why_no_network() -> str:
    """Return why there can be no such network here, or ""."""
    try:
        with Network(1):
            return ""
    except OSError as error:
        return f"no network namespace with a TUN device can be made: {error}"


class Network:
    """So many namespaces, numbered from 0, and the switch. A context manager that ends the switch."""

    def __init__(self, count: int) -> None:
        self.loss = 0.0  # of packets
        self.delay_s = 0.0  # of each packet, one way
        self.dropped = 0  # packets that were cut off
        self._cut: set[tuple[int, int]] = set()
        self._namespaces: list[int] = []
        self._devices: list[int] = []
        self._wake = os.eventfd(0)
        try:
            for number in range(count):
                self._add(number)
        except BaseException:
            self._close()
            raise
        self._is_closed = False
        self._thread = threading.Thread(target=self._switch, daemon=True)
        self._thread.start()

    def cut(self, *ways: tuple[int, int]) -> None:
        """Lose all packets from one number to another, for each pair."""
        self._cut |= set(ways)

    def part(self, *numbers: int) -> None:
        """Cut these off from all others, both ways."""
        others = set(range(len(self._devices))) - set(numbers)
        for each in numbers:
            self.cut(*((each, other) for other in others), *((other, each) for other in others))

    def heal(self) -> None:
        """Hand all packets on again."""
        self._cut = set()

    @contextlib.contextmanager
    def inside(self, number: int) -> Iterator[None]:
        """Have this thread, and the processes that it starts, in a namespace."""
        with _own_namespace() as own:
            _check(libc.setns(self._namespaces[number], CLONE_NEWNET))
            try:
                yield
            finally:
                _check(libc.setns(own, CLONE_NEWNET))

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._close()

    def _close(self) -> None:
        for descriptor in (*self._namespaces, *self._devices, self._wake):
            os.close(descriptor)

    def _add(self, number: int) -> None:
        with _own_namespace() as own:
            _check(libc.unshare(CLONE_NEWNET))
            try:
                with _own_namespace() as new:
                    self._namespaces.append(os.dup(new))
                self._devices.append(_device(address_of(number)))
            finally:
                _check(libc.setns(own, CLONE_NEWNET))

    def _switch(self) -> None:
        """Hand packets on, until closed."""
        chance, order = random.Random(15), 0
        late: list[tuple[float, int, int, bytes]] = []  # when, order, for whom, packet
        poll = select.poll()
        for descriptor in (*self._devices, self._wake):
            poll.register(descriptor, select.POLLIN)
        while not self._is_closed:
            wait_s = max(late[0][0] - time.monotonic(), 0) if late else None
            for descriptor, _ in poll.poll(None if wait_s is None else wait_s * 1000 + 0.5):
                if descriptor != self._wake:
                    for target, packet in self._packets(descriptor):
                        if chance.random() >= self.loss:
                            order += 1
                            heapq.heappush(late, (time.monotonic() + self.delay_s, order, target, packet))
            while late and late[0][0] <= time.monotonic():
                _, _, target, packet = heapq.heappop(late)
                with contextlib.suppress(OSError):  # its queue is full
                    os.write(self._devices[target], packet)

    def _packets(self, descriptor: int) -> Iterator[tuple[int, bytes]]:
        """Yield the packets that a namespace sends, which are not cut off."""
        source = self._devices.index(descriptor)
        for _ in range(64):
            try:
                packet = os.read(descriptor, 65536)
            except BlockingIOError:
                return
            target = packet[19] - 1 if packet[0] >> 4 == 4 else -1
            if (source, target) in self._cut:
                self.dropped += 1
            elif 0 <= target < len(self._devices):
                yield target, packet


def address_of(number: int) -> str:
    """Return the IP address of a namespace."""
    return f"{SUBNET}.{number + 1}"


@contextlib.contextmanager
def _own_namespace() -> Iterator[int]:
    """Give the network namespace of this thread."""
    descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _device(address: str) -> int:
    """Return a TUN device of this thread's namespace, with this address, and loopback up."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for request, text in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, "255.255.255.0")):
                value = struct.pack("16sHH4s16x", b"tun0", socket.AF_INET, 0, socket.inet_aton(text))
                fcntl.ioctl(control, request, value)
            for name in (b"tun0", b"lo"):
                fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", name, IFF_UP))
    except BaseException:
        os.close(device)
        raise
    return device


def _check(result: int) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
