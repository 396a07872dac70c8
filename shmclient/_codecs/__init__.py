"""The values that `put` stores and `get` returns, and their metadata: a codec for each kind of value."""

from shmclient._codecs.layout import ALIGNMENT, Encoded
from shmclient._codecs.numpy import FORMAT as ARRAY
from shmclient._codecs.numpy import describe_array
from shmclient._codecs.registry import can_encode, decode, encode, pack_metadata, unpack_metadata

__all__ = [
    "ALIGNMENT",
    "ARRAY",
    "Encoded",
    "can_encode",
    "decode",
    "describe_array",
    "encode",
    "pack_metadata",
    "unpack_metadata",
]
