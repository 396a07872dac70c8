"""A web service that answers from shared memory, and takes each new value, also over restarts of the host.

It is an ASGI application, for any server of these; this one needs no more than uvicorn:

    shmhost serve &
    uvicorn --app-dir examples web_service:app &
    shmclient put prices prices.npy
    curl http://localhost:8000/         {"rows": 1000, "sum": 499500.0, "values": 1}
    curl http://localhost:8000/changes  ["published prices 1"]

`follow` and `watch` go on at the next host, so nothing here looks after the connection; without a host the
service answers from the last value. Each worker process of the server has the same pages.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from typing import Any

import shmclient.aio

NAME = "prices"


class Service:
    """The newest prices, and the last changes of all names."""

    def __init__(self) -> None:
        self.prices: Any = None  # until there are some
        self.values = 0
        self.changes: deque[str] = deque(maxlen=100)

    async def follow(self, shm: shmclient.aio.AsyncClient) -> None:
        """Take each new value: a request that has begun keeps the one that it has."""
        async for self.prices in shm.follow(NAME):
            self.values += 1

    async def watch(self, shm: shmclient.aio.AsyncClient) -> None:
        """Note what happens to names, over restarts of the host."""
        async for change in shm.watch(wait=math.inf):
            self.changes.append(f"{change.kind} {change.info.name} {change.info.generation}")

    def answer(self, path: str) -> tuple[int, Any]:
        """Return the status and the content for a path."""
        if path == "/changes":
            return 200, list(self.changes)
        prices = self.prices
        if prices is None:
            return 503, f"nobody has put {NAME!r} yet"
        return 200, {"rows": len(prices), "sum": float(prices.sum()), "values": self.values}


async def live(service: Service, receive: Any, send: Any) -> None:
    """Follow and watch from the start of the server to its end."""
    await receive()
    async with await shmclient.aio.connect(wait=math.inf) as shm, asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(step(shm)) for step in (service.follow, service.watch)]
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in running:
            task.cancel()
    await send({"type": "lifespan.shutdown.complete"})


async def respond(service: Service, path: str, send: Any) -> None:
    """Answer a request."""
    status, content = service.answer(path)
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode() + b"\n"})


SERVICE = Service()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Be the application."""
    if scope["type"] == "lifespan":
        await live(SERVICE, receive, send)
    elif scope["type"] == "http":
        await respond(SERVICE, scope["path"], send)
