"""The name in a certificate, as peers will read it. Pure but for the file."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from shmprotocol.errors import InvalidArgument

COMMON_NAME = bytes.fromhex("0603550403")  # the identifier 2.5.4.3, in DER
SUBJECT = 5  # among the fields of a certificate's first part, which begin with the version (RFC 5280, 4.1)
VERSION = 0xA0


def common_name(path: str) -> str:
    """Return the common name of a certificate in a PEM file. InvalidArgument: it has none, or is none."""
    try:
        with open(path, encoding="ascii") as stream:
            text = stream.read(2**20)
        start = text.index(ssl.PEM_HEADER)
        end = text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
        certificate = next(_parts(ssl.PEM_cert_to_DER_cert(text[start:end])))[1]
        fields = list(_parts(next(_parts(certificate))[1]))
        subject = fields[SUBJECT if fields[0][0] == VERSION else SUBJECT - 1][1]
        names = [value for _, several in _parts(subject) for _, pair in _parts(several)
                 if pair.startswith(COMMON_NAME) for _, value in _parts(pair[len(COMMON_NAME):])]  # fmt: skip
        return names[0].decode()
    except (OSError, ValueError, IndexError, StopIteration) as error:
        raise InvalidArgument(f"{path} is not a certificate with a common name: {error}") from None


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the content of each value of DER; IndexError if it is cut short."""
    while data:
        tag, size, start = data[0], data[1], 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(data[2:start], "big")
        if start + size > len(data):
            raise IndexError("it is cut short")
        yield tag, data[start : start + size]
        data = data[start + size :]
