"""The bare host of the yardstick: uvloop, one reader callback a client, a descriptor by size, no protocol."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import sys
from typing import Any

import uvloop

REQUEST_SIZE, REPLY_SIZE, BACKLOG = 32, 96, 1024
REPLY = [b"x" * REPLY_SIZE]


def descriptor(size: int) -> Any:
    """Make a memfd of `size` bytes, of which only the first page has memory; return it as rights to send."""
    memory = os.memfd_create("bare", os.MFD_CLOEXEC)
    os.ftruncate(memory, size)
    os.pwrite(memory, b"S", 0)
    reader = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY)
    os.close(memory)
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [reader]))]


async def serve(path: str) -> None:
    """Serve at a Unix socket until the process is ended."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.bind(path)
    listener.listen(BACKLOG)
    loop = asyncio.get_running_loop()
    rights: dict[bytes, Any] = {}

    def answer(client: socket.socket) -> None:
        data, _, _, _ = client.recvmsg(65536)
        if not data:
            loop.remove_reader(client)
            client.close()
        for start in range(0, len(data), REQUEST_SIZE):
            if data[start : start + 1] == b"o":
                size = data[start + 8 : start + 16]
                if size not in rights:
                    rights[size] = descriptor(int.from_bytes(size, "little"))
                client.sendmsg(REPLY, rights[size])

    def accept() -> None:
        client, _ = listener.accept()
        client.setblocking(False)
        loop.add_reader(client, answer, client)

    loop.add_reader(listener, accept)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
