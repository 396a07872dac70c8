"""The bare host of the yardstick: uvloop, one reader callback a client, one descriptor, no protocol."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import sys
from typing import Any

import uvloop

REQUEST_SIZE, REPLY_SIZE = 32, 96


def serve(path: str, size: int) -> None:
    """Serve one memfd of `size` bytes at a Unix socket, until the only client goes."""
    descriptor = os.memfd_create("bare", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    os.pwrite(descriptor, b"S", 0)
    reader = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [reader]))]
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()
    client, _ = listener.accept()
    client.setblocking(False)
    uvloop.run(_answer(client, [b"x" * REPLY_SIZE], rights))


async def _answer(client: socket.socket, reply: list[bytes], rights: Any) -> None:
    loop, gone = asyncio.get_running_loop(), asyncio.Event()

    def readable() -> None:
        data, _, _, _ = client.recvmsg(65536)
        if not data:
            loop.remove_reader(client)
            gone.set()
        for start in range(0, len(data), REQUEST_SIZE):
            if data[start : start + 1] == b"o":
                client.sendmsg(reply, rights)

    loop.add_reader(client, readable)
    await gone.wait()


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[3])})
    serve(sys.argv[1], int(sys.argv[2]))
