"""The root of a region or of a value in an arena, as a typed pointer. Pure but for cffi."""

from __future__ import annotations

from typing import Any

from shmprotocol.errors import AddressConflict, BadRegion
from shmprotocol.tuples import NamedTuple


class Root(NamedTuple):
    """A root as its publisher described it; without one, `pointer` is 0.

    `base` is where its memory lies for its pointers, `address` where it is mapped here.
    """

    name: str
    pointer: int
    size: int
    metadata: dict[str, Any]
    base: int
    address: int


def pointer_type(ffi: Any, ctype: str, root: Root) -> Any:
    """Return the type of a pointer to the root. AddressConflict, BadRegion, TypeError: it cannot be one."""
    kind = ffi.typeof(ctype)
    if root.address != root.base:
        raise AddressConflict(
            f"{root.name!r} is mapped at {root.address:#x}, its pointers are made for "
            f"{root.base:#x}: follow them with translate(), or attach it at its own address"
        )
    if not root.pointer:
        raise BadRegion(f"{root.name!r} has no root: it is data; see its metadata, {root.metadata}")
    if kind.kind != "pointer":
        raise TypeError(f"a root is a pointer such as 'struct node *', not {ctype!r}")
    if ffi.sizeof(kind.item) > root.size:
        raise BadRegion(
            f"{kind.item.cname} has {ffi.sizeof(kind.item)} bytes, the root of {root.name!r} "
            f"{root.size}: it was published as {root.metadata.get('root', 'something else')}"
        )
    return kind
