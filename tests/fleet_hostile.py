"""A hostile member of a fleet: it speaks zenoh as hosts do, and answers what a test tells it to."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgpack

Answer = Callable[[tuple[Any, ...]], bytes]
PREFIX = "shmhost/test"


class Hostile:
    """A peer with an address and a card. `answers`: by the kind of a question, what makes the bytes."""

    def __init__(self, session: Any, address: str) -> None:
        self.address = address
        self.asked: list[str] = []
        self.answers: dict[str, Answer] = {
            "claim": lambda _: msgpack.packb(("granted",)),
            "catalogue": lambda _: msgpack.packb((0, "", ())),
        }
        self._session = session
        self._declared = session.declare_queryable(f"{PREFIX}/ask/evil/{address}/*", self._answer)

    def appear(self) -> None:
        self._token = self._session.liveliness().declare_token(f"{PREFIX}/live/evil/{self.address}")

    def tell(self, data: bytes) -> None:
        self._session.put(f"{PREFIX}/news/evil/{self.address}/all", data)

    def ask(self, address: str, *question: object) -> Any:
        """Return the answer of a host; the text of a refusal."""
        data = question[0] if isinstance(question[0], bytes) else msgpack.packb(question)
        for reply in self._session.get(f"{PREFIX}/ask/*/{address}/evil", payload=data, timeout=30.0):
            if reply.ok is None:
                return reply.err.payload.to_string()
            return msgpack.unpackb(reply.ok.payload.to_bytes(), use_list=False)
        return None

    def hosts(self) -> list[str]:
        """Return the addresses of the hosts that are there."""
        replies = self._session.liveliness().get(f"{PREFIX}/live/*/*", timeout=10.0)
        addresses = [str(reply.ok.key_expr).rpartition("/")[2] for reply in replies if reply.ok is not None]
        return [address for address in addresses if address != self.address]

    def _answer(self, query: Any) -> None:
        with query:
            kind, *values = msgpack.unpackb(query.payload.to_bytes(), use_list=False)
            self.asked.append(kind)
            answer = self.answers.get(kind)
            if answer is None:
                query.reply_err(b"no")
            else:
                query.reply(query.key_expr, answer(tuple(values)))


@contextlib.contextmanager
def hostile(*ports: int, process: str = "e") -> Iterator[Hostile]:
    """Be a peer of the hosts at these ports; after a restart, as another process."""
    import zenoh

    settings = zenoh.Config()
    settings.insert_json5("mode", '"peer"')
    settings.insert_json5("listen/endpoints", "[]")
    settings.insert_json5("connect/endpoints", json.dumps([f"tcp/127.0.0.1:{port}" for port in ports]))
    settings.insert_json5("scouting/multicast/enabled", "false")
    with zenoh.open(settings) as session:
        yield Hostile(session, "0" * 15 + "1" + process * 16)
