"""The memory at an address of this process: a region, a mapping, private memory, or none."""

from __future__ import annotations

from typing import Any

from shmclient._process.address_space import ADDRESS_SPACE
from shmclient.posix._mappings import MAPPINGS
from shmprotocol.abi.header import HEADER_SIZE
from shmprotocol.kernel import address_space
from shmprotocol.tuples import NamedTuple


class SharedPlace(NamedTuple):
    """Shared memory that other processes may read: a region, or a shared mapping of `shmclient.posix`.

    A published region is leased for as long as it is mapped here: `is_lasting`. `first_writable` is the first
    address that may be written, or `end` where none may. `kept` keeps it mapped.
    """

    start: int
    end: int
    label: str
    is_lasting: bool
    first_writable: int
    kept: Any


def shared_place(address: int) -> SharedPlace | None:
    """Return the shared memory that an address lies in, or None for all else."""
    region = ADDRESS_SPACE.find(address)
    if region is not None:
        end = region.address + region.capacity
        first = region.address + HEADER_SIZE if region.is_writable else end
        return SharedPlace(region.address, end, region.label, region.is_lasting, first, region.memory)
    mapping = MAPPINGS.find(address)
    if mapping is None or not mapping.is_shared:
        return None
    end = mapping.address + mapping.length
    first = mapping.address if mapping.is_writable else end
    try:
        view = mapping.hold()
    except OSError:  # it is just going
        return None
    return SharedPlace(mapping.address, end, repr(mapping), False, first, view)


def describe(address: int) -> str:
    """Say in words what lives at an address."""
    memory = shared_place(address)
    if memory is not None:
        return memory.label
    if ADDRESS_SPACE.is_reserved(address):
        return "nothing: an address of the window where this process has no region mapped"
    try:
        line = address_space.mapping_at(address)
    except OSError as error:
        return f"memory of unknown kind ({error})"
    if line is None:
        return "nothing: this process has no memory there"
    _, protection, *_, path = f"{line} ".split(" ", 5)
    what = path.strip() or "anonymous"
    if protection.endswith("s"):
        return f"shared memory outside of any region ({what})"
    return f"private memory of this process ({what})"
