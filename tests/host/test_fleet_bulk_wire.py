"""Connections for chunks on which nothing moves any more."""

from __future__ import annotations

import contextlib
import socket
import ssl

import pytest

from shmhost.fleet import bulk_wire as wire


@pytest.mark.parametrize("has_tls", [False, True])
def test_call_fails_when_nothing_comes_for_so_long(has_tls: bool) -> None:
    """As from a machine without power. Python's TLS goes on to wait where a plain socket fails."""
    near, far = socket.socketpair()
    with contextlib.closing(far), contextlib.ExitStack() as stack:
        if has_tls:
            context = ssl.create_default_context()
            near = context.wrap_socket(near, do_handshake_on_connect=False, server_hostname="far")
        stack.enter_context(contextlib.closing(near))
        wire.limit(near, 1)
        with pytest.raises((BlockingIOError, TimeoutError)):
            near.do_handshake() if isinstance(near, ssl.SSLSocket) else near.recv(1)
