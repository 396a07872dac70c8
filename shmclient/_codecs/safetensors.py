"""The header of a safetensors file: checked, as the file is untrusted, and made. Pure; reads no file.

A file is a u64, the length of the header; the header, JSON; and the data. The header has dtype and shape of
each tensor, and where it begins and ends in the data; see https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn

from shmclient._codecs.dtypes import DIMENSIONS_MAX
from shmprotocol.errors import InvalidArgument
from shmprotocol.tuples import NamedTuple

LENGTH_SIZE = 8
HEADER_MAX = 100_000_000  # bytes: that of the format's own readers
METADATA = "__metadata__"
# The names of the format with ours, and the bytes of an item. It also has some that are packed.
DTYPES = {
    "BOOL": ("|b1", 1),
    "U8": ("|u1", 1),
    "I8": ("|i1", 1),
    "U16": ("<u2", 2),
    "I16": ("<i2", 2),
    "U32": ("<u4", 4),
    "I32": ("<i4", 4),
    "U64": ("<u8", 8),
    "I64": ("<i8", 8),
    "F16": ("<f2", 2),
    "BF16": ("bfloat16", 2),
    "F32": ("<f4", 4),
    "F64": ("<f8", 8),
    "C64": ("<c8", 8),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 1),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 1),
}
_NAMES = {ours: theirs for theirs, (ours, _) in DTYPES.items()}


class Entry(NamedTuple):
    """A tensor of a file: its dtype as our metadata names it, and where its bytes are in the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """The tensors of a file, in the order of their data, and what else its writer says of it."""

    entries: tuple[Entry, ...]
    metadata: dict[str, str]


def check_length(length: int, file_size: int) -> int:
    """Return the length of a header; InvalidArgument unless the file has room for it."""
    if length > HEADER_MAX:
        raise InvalidArgument(
            f"a header of {length} bytes is over {HEADER_MAX}: it is not a safetensors file"
        )
    if LENGTH_SIZE + length > file_size:
        raise InvalidArgument(f"a header of {length} bytes is not in a file of {file_size}: it is cut off")
    return length


def parse_header(raw: bytes, data_size: int) -> Header:
    """Return what a header says of the data behind it; InvalidArgument, with the values: it is not sound."""
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise InvalidArgument("the header nests too deep") from None
    except ValueError as error:
        raise InvalidArgument(f"the header is not JSON of the format: {error}") from None
    if not isinstance(header, dict):
        raise InvalidArgument(f"the header is not an object: {header!r:.40}")
    metadata = _metadata(header.pop(METADATA, {}))
    entries = sorted((_entry(*item) for item in header.items()), key=lambda entry: (entry.begin, entry.end))
    _check_whole(entries, data_size)
    return Header(tuple(entries), metadata)


def make_header(items: Mapping[str, tuple[str, tuple[int, ...], int]], metadata: Mapping[str, str]) -> bytes:
    """Return the start of a file, up to the data: of tensors with dtype, shape and bytes, in their order.

    InvalidArgument: a dtype that the format does not have, or a name or a text that it cannot have.
    """
    header: dict[str, Any] = {METADATA: _metadata(dict(metadata))} if metadata else {}
    end = 0
    for name, (dtype, shape, size) in items.items():
        if dtype not in _NAMES or name == METADATA:
            raise InvalidArgument(
                f"{name!r:.80}: safetensors has no tensors of dtype {dtype}, or of this name"
            )
        begin, end = end, end + size
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    try:
        content = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"a name is not UTF-8: {error}") from None
    content += b" " * (-len(content) % 8)  # so that the data is aligned
    return len(content).to_bytes(LENGTH_SIZE, "little") + content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON. One name for two tensors is how a file says two things to two readers."""
    items = dict(pairs)
    if len(items) != len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"{twice!r:.80} is there twice")
    return items


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(type(part) is str for item in value.items() for part in item):
        raise InvalidArgument(f"{METADATA} maps texts to texts, not {value!r:.80}")
    return value


def _entry(name: str, item: object) -> Entry:
    if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
        raise InvalidArgument(f"{name!r:.80} has not just dtype, shape and data_offsets: {item!r:.80}")
    dtype, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    if type(dtype) is not str or dtype not in DTYPES:
        raise InvalidArgument(f"{name!r:.80} has the dtype {dtype!r:.40}: a region takes {', '.join(DTYPES)}")
    if not _is_list_of_lengths(shape) or len(shape) > DIMENSIONS_MAX:
        raise InvalidArgument(f"{name!r:.80} has the shape {shape!r:.80}: up to {DIMENSIONS_MAX} lengths are")
    if not _is_list_of_lengths(offsets) or len(offsets) != 2:
        raise InvalidArgument(f"{name!r:.80} has the offsets {offsets!r:.80}: begin and end are")
    begin, end = offsets
    ours, itemsize = DTYPES[dtype]
    size = math.prod(shape) * itemsize
    if end - begin != size:
        raise InvalidArgument(
            f"{name!r:.80} of shape {shape!r:.80} takes {size} bytes of {dtype}, and is at {begin} to {end}"
        )
    if math.prod(length or 1 for length in shape) * itemsize >= 2**63:  # NumPy computes its strides
        raise InvalidArgument(
            f"{name!r:.80} has the shape {shape!r:.80}: it is too large, even if it is empty"
        )
    return Entry(name, ours, tuple(shape), begin, end)


def _is_list_of_lengths(value: object) -> bool:
    return type(value) is list and all(type(number) is int and 0 <= number < 2**63 for number in value)


def _check_whole(entries: list[Entry], data_size: int) -> None:
    """Check that the tensors are all of the data, once: no two share a byte, and nothing lies beside them."""
    end, before = 0, "the start"
    for entry in entries:
        if entry.begin != end:
            how = "overlaps" if entry.begin < end else "leaves a gap behind"
            span = f"{entry.begin} to {entry.end}"
            raise InvalidArgument(f"{entry.name!r:.80}, at {span}, {how} {before:.80}, which ends at {end}")
        end, before = entry.end, repr(entry.name)
    if end != data_size:
        raise InvalidArgument(
            f"the tensors end at {end}, and the data at {data_size}: it was cut off or added to"
        )
