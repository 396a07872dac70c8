"""The values that `put` stores and `get` returns, and their metadata: a codec for each kind of value."""

from shmclient._codecs.index import INDEX_ALIGNMENT, REFERENCE_SIZE, Index, pack_reference
from shmclient._codecs.items import pack_metadata, unpack_metadata
from shmclient._codecs.layout import ALIGNMENT, Encoded
from shmclient._codecs.numpy import check_array, describe_array
from shmclient._codecs.objects import PickledObject, loaded, pickled
from shmclient._codecs.region_dict import RegionDict
from shmclient._codecs.registry import can_encode, decode, decode_packed, described_already, encode

__all__ = [
    "ALIGNMENT",
    "INDEX_ALIGNMENT",
    "REFERENCE_SIZE",
    "Encoded",
    "Index",
    "PickledObject",
    "RegionDict",
    "can_encode",
    "check_array",
    "decode",
    "decode_packed",
    "describe_array",
    "described_already",
    "encode",
    "loaded",
    "pack_metadata",
    "pack_reference",
    "pickled",
    "unpack_metadata",
]
