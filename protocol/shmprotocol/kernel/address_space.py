"""Regions in the address space: reserve, map, check, and report conflicting mappings.

Knows no socket and no message.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from shmprotocol.abi.header import raise_unless_region
from shmprotocol.errors import AddressConflict, BadRegion, OutOfMemory
from shmprotocol.native.binding import ffi, lib

MAP_RESERVED = lib.SHM_MAP_RESERVED
MAP_UNSEALED = lib.SHM_MAP_UNSEALED
MAP_SHARED = lib.SHM_MAP_SHARED
MAP_ANYWHERE = lib.SHM_MAP_ANYWHERE
MAP_WRITABLE = lib.SHM_MAP_WRITABLE
MAP_ARENA = lib.SHM_MAP_ARENA


def native_header(address: int, owner: object) -> Any:
    """Return the `struct shm_region_header *` at an address; it keeps an object alive."""
    return pointer_keeping(ffi, ffi.typeof("struct shm_region_header *"), address, owner)


def pointer_keeping(user_ffi: Any, pointer_type: Any, address: int, owner: object) -> Any:
    """Return a pointer of the caller's own cffi FFI that keeps an object alive."""
    # Not from_buffer() of a view: if a memoryview with exports is collected in a cycle, the process crashes
    # (CPython 3.11). Not ffi.gc(): its destructor runs before those of other objects in the cycle.
    size = user_ffi.sizeof(pointer_type.item)
    return user_ffi.from_buffer(pointer_type, bytes_keeping(address, size, owner))


def bytes_keeping(address: int, size: int, owner: object) -> Any:
    """Return an object whose buffer is raw memory, read-only; it keeps an object alive."""
    return bytes_at(address, size, partial(id, owner))  # which does nothing, with no code of Python


def char_pointer(address: int) -> Any:
    """Return a `char *`, which every cffi FFI takes."""
    return ffi.cast("char *", address)


def memory_at(address: int, size: int) -> Any:
    """Return a buffer of the bytes at an address, which does not keep them."""
    return ffi.buffer(ffi.cast("char *", address), size)


def text_at(address: int) -> bytes:
    """Return a copy of the terminated text at an address."""
    return bytes(ffi.string(ffi.cast("char *", address)))


def describe_pointer(pointer: Any) -> tuple[int, int, Any]:
    """Return the address, the size of the target, and the type of a cffi pointer or array; or TypeError."""
    kind = ffi.typeof(pointer)
    if kind.kind not in ("pointer", "array"):
        raise TypeError(f"expected a cffi pointer, got {kind.cname!r}")
    if kind.kind == "pointer" and kind.item.kind in ("struct", "union") and kind.item.fields is None:
        raise TypeError(f"{kind.cname!r} points to a type without a definition: its size is not known")
    if kind.kind == "array":
        size = ffi.sizeof(pointer)
    else:
        size = 1 if kind.item.kind == "void" else ffi.sizeof(kind.item)
    return int(ffi.cast("uintptr_t", pointer)), size, kind


def reserve(address: int, size: int) -> bool:
    """Reserve a range of addresses. False if a limit forbids it; AddressConflict if it is occupied."""
    error = -lib.shm_reserve(address, size)
    if error in (errno.ENOMEM, errno.EAGAIN):
        return False
    if error == errno.EEXIST:
        raise conflict(address, size)
    _raise_os_error(error, address, size)
    return True


def map_writable(descriptor: int, address: int, capacity: int, flags: int) -> int:
    """Map a region under construction read-write (its header page read-only); return its address."""
    flags |= MAP_WRITABLE
    return mapped(lib.shm_map(descriptor, address, capacity, flags), address, capacity, flags)


def attach(descriptor: int, address: int, capacity: int, flags: int) -> int:
    """Map a published region after checking it, read-only unless it is a shared one; return its address.

    BadRegion: seals, size or header are not those of a published region. AddressConflict: another
    mapping is at the address. OutOfMemory: a limit. The caller still owns the descriptor.
    """
    return mapped(lib.shm_attach(descriptor, address, capacity, flags), address, capacity, flags)


# The kernel's errors for a descriptor that is not of memory, or not open for its use.
NOT_MEMORY = frozenset(
    [
        errno.EBADF,
        errno.ENODEV,
        errno.EACCES,
        errno.EPERM,
        errno.EINVAL,
        errno.ESPIPE,
        errno.EISDIR,
        errno.ENXIO,
    ]
)


def check_memory(descriptor: int, size: int, *, is_sealed: bool) -> None:
    """Raise BadRegion unless a descriptor is of memory that has so many bytes, and keeps them if sealed.

    A write to a mapping of less would be SIGBUS.
    """
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)  # first: it waits for no server of a file system
        actual = os.fstat(descriptor).st_size
    except OSError as error:
        raise BadRegion(f"the host sent a descriptor that is not of memory ({error.strerror})") from None
    if actual < size:
        raise BadRegion(f"the host sent a descriptor of {actual} bytes in place of {size}")
    if is_sealed and not seals & fcntl.F_SEAL_SHRINK:
        raise BadRegion(f"the host sent a descriptor of memory that can shrink (seals {seals:#x})")


def mapped(result: int, address: int, capacity: int, flags: int) -> int:
    """Return the result of a mapping, an address, or raise the error that it is; see `attach`."""
    if result < 0:
        if result in (-errno.EEXIST, -errno.EALREADY):
            raise conflict(address, capacity)
        if (
            flags & (MAP_WRITABLE | MAP_SHARED) != MAP_WRITABLE
        ):  # EPERM has another meaning to a writer: sealed, and so not writable
            raise_unless_region(result, f"the object for address {address:#x}")
        _raise_os_error(-result, address, capacity)
    return result


def freeze(descriptor: int, address: int, capacity: int) -> None:
    """Map an object read-only over a writable mapping of it. `descriptor` was opened O_RDONLY; the caller
    still owns it. Views can still read; a write through one is SIGSEGV.
    """
    _raise_os_error(-lib.shm_freeze(descriptor, address, capacity), address, capacity)


def keep_from_children(address: int, size: int) -> None:
    """Have the children of forks from now on get none of a range of mappings."""
    _raise_os_error(-lib.shm_madvise(address, size, mmap.MADV_DONTFORK), address, size)


def unmap(address: int, capacity: int, flags: int, results: list[int] | None = None) -> None:
    """Unmap a range, and give it back to the reservation if it is in one.

    `results` gets one more: 0 or -errno. It is there even when Ctrl-C comes right after the unmapping.
    """
    results = [] if results is None else results
    results.extend(map(lib.shm_unmap, (address,), (capacity,), (flags,)))
    _raise_os_error(-results[-1], address, capacity)


def bytes_at(address: int, size: int, on_release: Callable[[], object], *, is_writable: bool = False) -> Any:
    """Return an object whose buffer is raw memory; `on_release` is called once, when it is deallocated.

    Its end comes with the last view of it, on any thread, even inside the garbage collector, but never
    before the `__del__` of an object that is collected with it. The object supports weak references.

    Read-only memory must be read-only in this object, not just in a view of it: NumPy asks the base object of
    a view whether `array.flags.writeable = True` is allowed (`_IsWriteable` in its flagsobject.c).
    """
    memory: list[Any] = []
    if lib.shm_memory_new(id(memory), address, size, is_writable, id(on_release)):
        on_release()
        raise OutOfMemory(f"no memory is left for a view of {size} bytes at {address:#x}")
    return memory[0]


def exports(memory: Any) -> int:
    """Return the number of live views of an object from `bytes_at`, including arrays and pins."""
    count: int = lib.shm_memory_exports(id(memory))
    return count


def disown(memory: Any) -> None:
    """Make an object from `bytes_at` never call its `on_release`; it must have no views, and get none."""
    lib.shm_memory_disown(id(memory))


def _raise_os_error(error: int, address: int, size: int) -> None:
    if not error:
        return
    where = f"{size} bytes at {address:#x}"
    if error in (errno.ENOMEM, errno.EAGAIN):
        raise OutOfMemory(
            f"cannot map {where}: {os.strerror(error)}; see RLIMIT_AS, RLIMIT_MEMLOCK with mlockall, "
            "and vm.max_map_count"
        )
    raise OSError(error, f"{os.strerror(error)}, mapping {where}")


def mapping_at(address: int) -> str | None:
    """Return the line of /proc/self/maps (proc_pid_maps(5)) for an address, single-spaced, or None."""
    return next((line for line in _maps() if _overlaps(line, address, address + 1)), None)


def occupants(address: int, size: int) -> str:
    """Describe this process's mappings in a range of addresses: up to three lines of /proc/self/maps."""
    try:
        lines = [line for line in _maps() if _overlaps(line, address, address + size)]
    except OSError as error:
        return f"an unknown mapping: {error}"
    return "; ".join(lines[:3]) or "a mapping that no longer exists"


def conflict(address: int, size: int) -> AddressConflict:
    """Return the error that names this process's mappings in a range of addresses."""
    return AddressConflict(
        f"{address:#x}-{address + size:#x} is occupied in this process by {occupants(address, size)}. Attach "
        "before that is mapped, give the host another window (shmhost serve --window), or open with "
        "anywhere=True"
    )


def _maps() -> list[str]:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        return [" ".join(line.split()) for line in maps]


def _overlaps(line: str, start: int, end: int) -> bool:
    low, _, high = line.split(" ", 1)[0].partition("-")
    return int(low, 16) < end and int(high, 16) > start
