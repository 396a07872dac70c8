"""The structs of a producer of Arrow data, read by address: believed, as all consumers believe them."""

from __future__ import annotations

import functools
import struct
from typing import Any

from shmprotocol.kernel.address_space import memory_at, text_at
from shmprotocol.native.builtins import arrow_address, arrow_pull, arrow_struct, arrow_type
from shmprotocol.tuples import NamedTuple

DEPTH_MAX = 63  # SHM_ARROW_DEPTH_MAX
# enum shm_arrow_kind
NULL, BITS, FIXED, BINARY, VIEW, LIST, LIST_VIEW, FIXED_LIST, STRUCT, SPARSE, DENSE, RUNS = range(1, 13)
_SCHEMA = struct.Struct("=QQQqqQQQQ")
_LENGTH = struct.Struct("=i")
_new_type = functools.lru_cache(maxsize=256)(arrow_type)


class Schema(NamedTuple):
    """A schema, with the layout of its type."""

    format: bytes
    name: bytes | None
    metadata: bytes | None
    flags: int
    children: tuple[Schema, ...]
    dictionary: Schema | None
    kind: int
    has_validity: bool
    width: int  # see `struct shm_arrow_type`


class Array(NamedTuple):
    """A struct ArrowArray; all buffers, children and the dictionary are addresses."""

    length: int
    null_count: int
    offset: int
    buffers: tuple[int, ...]
    children: tuple[int, ...]
    dictionary: int


class Source(NamedTuple):
    """A schema with the addresses of its batches, and what keeps all of them."""

    schema: Schema
    batches: list[int]
    is_one: bool  # array, not a stream
    keeper: object


def read_source(obj: Any) -> Source:
    """Return what an object exports. TypeError: too deep a type; OSError: its stream fails."""
    if hasattr(type(obj), "__arrow_c_array__"):
        capsules = obj.__arrow_c_array__()
        schema, array = (arrow_address(capsule) for capsule in capsules)
        return Source(_schema(schema, 0), [array], True, capsules)
    keeper, schema, batches = arrow_pull(obj.__arrow_c_stream__())
    return Source(_schema(schema, 0), batches, False, keeper)


def read_array(address: int) -> Array:
    """Return the struct at an address. ValueError: parts of it are nowhere."""
    return Array._make(arrow_struct(address))


def memory(address: int, size: int) -> Any:
    """Return a buffer of `size` bytes at an address, which does not keep them."""
    if not address and size:
        raise ValueError(f"the Arrow array is corrupt: {size} bytes of it are nowhere")
    return memory_at(address, size)


def _addresses(address: int, count: int) -> tuple[int, ...]:
    if not count:
        return ()
    return struct.unpack(f"={count}Q", memory(address, 8 * count))


def _schema(address: int, depth: int) -> Schema:
    if depth > DEPTH_MAX:
        raise TypeError(f"the Arrow type nests more than {DEPTH_MAX} types")
    numbers = _SCHEMA.unpack(memory(address, _SCHEMA.size))
    form, name, metadata, flags, child_count, children, dictionary = numbers[:7]
    text = _text(form) or b""
    kind, has_validity, width, _, _ = _new_type(text)
    return Schema(
        text,
        _text(name),
        _metadata(metadata),
        flags,
        tuple(_schema(child, depth + 1) for child in _addresses(children, child_count)),
        _schema(dictionary, depth + 1) if dictionary else None,
        kind,
        bool(has_validity),
        width,
    )


def _text(address: int) -> bytes | None:
    return text_at(address) if address else None


def _metadata(address: int) -> bytes | None:
    """Return metadata as it lies: a count of pairs, each of two sized strings."""
    if not address:
        return None
    size = 4
    for _ in range(2 * _LENGTH.unpack(memory(address, 4))[0]):
        size += 4 + _LENGTH.unpack(memory(address + size, 4))[0]
    return bytes(memory(address, size))
