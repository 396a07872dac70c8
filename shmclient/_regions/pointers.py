"""The pointer check of a region or a builder, for users."""

from __future__ import annotations

from typing import Any

from shmclient._pointers.check import NO_LENGTHS, Lengths, check_root
from shmclient._pointers.plan import is_complete
from shmclient._regions.builder import RegionBuilder, pointed_in_builder
from shmclient._regions.region import RegionHandle, pointed_in
from shmprotocol.errors import BadRegion


def check_pointers(
    region: RegionHandle | RegionBuilder, ffi: Any, ctype: str, *, lengths: Lengths = NO_LENGTHS
) -> int:
    """Walk all that can be reached from the root of a region by its cffi types; return the count of objects.

    Takes a region, or a builder with a root. `ctype` is what the root is, such as `"struct node *"`. Each
    pointer must be NULL or lead to a whole, aligned object in the same region: another one may be gone
    before it. The first that does not raises PointerEscapes, with its path from the root. Behind a pointer
    lies one object, or as many as `lengths` says, such as `{"struct table.rows": "row_count"}`: a field of
    the same structure or a number; where it is 0, the pointer is not looked at. Unions are not followed,
    nor an array without a length at the end of a structure; of an anonymous union of structures, name the
    union.
    BadRegion: no root, or objects of one type overlap. InvalidArgument: a length of what is not reached.
    Takes some 0.1 us, and up to 96 bytes meanwhile, for each object.
    """
    kind = ffi.typeof(ctype)
    if kind.kind != "pointer" or not is_complete(kind.item):
        raise TypeError(
            f"a root is a pointer to a type of known size, such as 'struct node *', not {ctype!r}"
        )
    pointed = pointed_in_builder(region) if isinstance(region, RegionBuilder) else pointed_in(region)
    if not pointed.root or pointed.root_size < ffi.sizeof(kind.item):
        raise BadRegion(
            f"{pointed.name!r} has no root of the {ffi.sizeof(kind.item)} bytes of {kind.item.cname!r}: "
            f"its root has {pointed.root_size}"
        )
    return check_root(pointed, kind.item, lengths)
