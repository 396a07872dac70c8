"""The connections that carry chunks from host to host: their bytes, their TLS, their limits. No thread.

zenoh takes some 1.5 s of CPU for a GiB, and a TCP stream 0.35 s († 2026-11, both sides, 1 MiB at a time). So
hosts that have a link of zenoh open TCP connections beside it. A connection begins with a token, which only
members of the fleet get, by a question over zenoh. Then come requests, which are the questions for chunks,
and an answer for each, in the same order: its kind, its size, and the bytes.
"""

from __future__ import annotations

import ipaddress
import math
import socket
import ssl
import struct
import time
from typing import Any

from shmhost.fleet.config import FleetConfig, Tls
from shmhost.fleet.messages import fields, flag, number, pack, text
from shmprotocol.errors import RemoteProtocolError
from shmprotocol.tuples import NamedTuple

MAGIC = b"shmhost/chunks/1"
TOKEN = 16  # bytes, of chance
REQUEST = struct.Struct("<I")  # the size of a question
ANSWER = struct.Struct("<BI")  # the kind of an answer, and its size
MAX_REQUEST = 4096  # bytes
MAX_REFUSAL = 2048  # bytes
DATA, REFUSED = 0, 1  # kinds of answers
MAX_PORTS = 64  # that a host may name
CHUNK_S = 120.0  # for one, on each side: of 4 MiB at 280 kbit/s. A byte now and then would hold both for ever


class Ports(NamedTuple):
    """Where a host sends chunks: the identity of its session of zenoh, its token, and its addresses."""

    session: str
    token: bytes
    is_tls: bool
    addresses: tuple[tuple[str, int], ...]

    def at(self, address: str) -> int | None:
        """Return the port at one address of the host; None: it does not listen there.

        Only the address of a link is ever connected to: a hostile host cannot name that of another machine.
        """
        exact = ipaddress.ip_address(address)
        for each, port in self.addresses:
            own = ipaddress.ip_address(each)
            if own == exact or (own.is_unspecified and own.version == exact.version):
                return port
        return None


def pack_ports(ports: Ports) -> bytes:
    """Return the answer to the question for the ports."""
    return pack(ports.session, ports.token, ports.is_tls, ports.addresses)


def ports_of(values: tuple[Any, ...]) -> Ports:
    """Return the ports in an answer; RemoteProtocolError."""
    return Ports(*fields(values, text(64), _token, flag, _addresses))


def _token(value: object) -> bytes:
    if type(value) is not bytes or len(value) != TOKEN:
        raise RemoteProtocolError(f"{value!r:.40} is not a token")
    return value


def _addresses(value: object) -> tuple[tuple[str, int], ...]:
    if type(value) is not tuple or len(value) > MAX_PORTS:
        raise RemoteProtocolError(f"{value!r:.40} is not a list of addresses")
    return tuple(_address(each) for each in value)


def _address(value: object) -> tuple[str, int]:
    if type(value) is not tuple or len(value) != 2:
        raise RemoteProtocolError(f"{value!r:.40} is not an address and a port")
    return numeric(text(64)(value[0])), number(1, 65535)(value[1])


def endpoints(plan: FleetConfig) -> tuple[str, ...]:
    """Return where a host listens for requests: where the file says, or at free ports where zenoh listens."""
    if plan.bulk is not None:
        return plan.bulk
    return tuple(f"{endpoint.rpartition(':')[0]}:0" for endpoint in plan.listen)


def split(endpoint: str) -> tuple[str, int]:
    """Return the host and the port of an endpoint such as tcp/127.0.0.1:7447 or tls/[::1]:7447."""
    host, _, port = endpoint.partition("/")[2].rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def numeric(host: str) -> str:
    """Return an address as all write it; RemoteProtocolError."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        raise RemoteProtocolError(f"{host!r:.80} is not an address") from None


def server_context(tls: Tls) -> ssl.SSLContext:
    """Return what a host accepts: certificates of the CA of the fleet."""
    return _trusting(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tls)


def client_context(tls: Tls) -> ssl.SSLContext:
    """Return what a host shows and accepts. A certificate of the CA is enough, whatever name it has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _trusting(context, tls)


def _trusting(context: ssl.SSLContext, tls: Tls) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(tls.ca)
    context.load_cert_chain(tls.certificate, tls.key)
    return context


def common_name(connection: socket.socket) -> str | None:
    """Return the name in the certificate of the other side; None: there is no TLS."""
    if not isinstance(connection, ssl.SSLSocket):
        return None
    subject = (connection.getpeercert() or {}).get("subject", ())
    names = [pair[1] for part in subject for pair in part if pair[0] == "commonName"]
    return str(names[0]) if names else ""


def limit(sock: socket.socket, seconds: int) -> None:
    """Let calls of a blocking socket fail after some seconds in which nothing moves: socket(7), SO_RCVTIMEO.

    A timeout of Python's would make the descriptor non-blocking, and sendfile(2) with it. TLS has no
    sendfile, and Python goes on to wait when a call of a blocking socket fails so (`_ssl.c`, WANT_READ).
    """
    if isinstance(sock, ssl.SSLSocket):
        sock.settimeout(seconds)
        return
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", seconds, 0))


def receive(sock: socket.socket, view: memoryview, end_s: float = math.inf) -> None:
    """Fill a buffer. OSError: the connection has ended, nothing comes any more, or not all came in time."""
    done = 0
    while done < len(view):
        count = sock.recv_into(view[done:])
        if not count:
            raise ConnectionError("the peer has closed the connection")
        if time.monotonic() > end_s:
            raise ConnectionError("the peer sends too slowly")
        done += count


def receive_bytes(sock: socket.socket, size: int, end_s: float = math.inf) -> bytes:
    """Return some bytes. OSError, as `receive`."""
    data = bytearray(size)
    receive(sock, memoryview(data), end_s)
    return bytes(data)
