"""Calls on mapped memory: protection, write-back, advice and locks."""

from __future__ import annotations

import errno
import mmap as _mmap
from typing import Any

from shmclient.posix._errors import check_flags, check_result, failure
from shmclient.posix._mappings import MAPPINGS, Mapping, Range
from shmprotocol.native.binding import ffi, lib


def mprotect(target: Mapping | Any, prot: int) -> None:
    """Set the protection of a mapping, or of a view of whole pages of one; see mprotect(2).

    The processor enforces it: a write through an older view ends the process by SIGSEGV.
    EINVAL: not a mapping of this package, or not whole pages. EACCES: more than the descriptor or a seal
    allowed at `mmap`.
    """
    check_flags(prot, "protection")
    address, length, mapping, _kept = _own(target, "mprotect")
    if prot & _mmap.PROT_WRITE and not mapping.may_write:
        raise failure(errno.EACCES, f"mprotect of {mapping!r}")
    check_result(
        lib.shm_mprotect(address, length, prot), f"mprotect of {length} bytes at {address:#x} to {prot:#x}"
    )
    if length == mapping.length:
        with MAPPINGS.gate.draining, MAPPINGS.gate.lock:
            mapping.prot = prot


def msync(target: Mapping | Any, flags: int = lib.MS_SYNC) -> None:
    """Write a mapping, or a view of whole pages of one, to its file: MS_SYNC waits, MS_ASYNC does not."""
    check_flags(flags, "flags")
    address, length, _, _kept = _own(target, "msync")
    check_result(lib.shm_msync(address, length, flags), f"msync of {length} bytes at {address:#x}")


def madvise(target: Mapping | Any, advice: int) -> None:
    """Tell the system how a mapping, or a view of whole pages of one, will be used (MADV_*); see madvise(2).

    Some advice destroys content: MADV_DONTNEED that of private memory, MADV_REMOVE that of the object.
    """
    check_flags(advice, "advice")
    address, length, _, _kept = _own(target, "madvise")
    check_result(
        lib.shm_madvise(address, length, advice), f"madvise {advice} of {length} bytes at {address:#x}"
    )


def mlock(target: Mapping | Any) -> None:
    """Keep the pages of a mapping, a region's data or any other buffer in memory until `munlock`.

    ENOMEM, EPERM: over RLIMIT_MEMLOCK.
    """
    address, length, _kept = _any(target)
    check_result(lib.shm_mlock(address, length), f"mlock of {length} bytes at {address:#x}")


def munlock(target: Mapping | Any) -> None:
    """Undo `mlock`, for all bytes of the pages that the target lies in."""
    address, length, _kept = _any(target)
    check_result(lib.shm_munlock(address, length), f"munlock of {length} bytes at {address:#x}")


def mlockall(flags: int) -> None:
    """Keep all pages of this process in memory (MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT). ENOMEM: a limit."""
    check_result(lib.shm_mlockall(check_flags(flags, "flags")), f"mlockall with {flags:#x}")


def munlockall() -> None:
    """Undo `mlockall` and all `mlock`."""
    check_result(lib.shm_munlockall(), "munlockall")


def _any(target: Any) -> tuple[int, int, Any]:
    """Return the address and length of a mapping or buffer, and a view that keeps it in place."""
    if isinstance(target, Mapping):
        return target.address, target.length, target._range.hold()
    held = ffi.from_buffer(target)
    return int(ffi.cast("uintptr_t", held)), len(held), held


def _own(target: Any, call: str) -> tuple[int, int, Range, Any]:
    """Return address, length and mapping of a mapping of this package, or of a view of one; or EINVAL."""
    try:
        address, length, view = _any(target)
    except (TypeError, BufferError, ValueError) as error:
        raise failure(errno.EINVAL, f"{call} of a {type(target).__name__}: {error}") from None
    mapping = MAPPINGS.find(address)
    end = address + length
    if mapping is None or end > mapping.address + mapping.length:
        raise failure(
            errno.EINVAL, f"{call} of {length} bytes at {address:#x}, not mapped by shmclient.posix"
        )
    if mapping.inside.overlapping(address, length):
        raise failure(errno.EINVAL, f"{call} of {mapping!r}, which contains other mappings: name those")
    if (
        end % _mmap.PAGESIZE and end != mapping.address + mapping.length
    ):  # the system would take the rest of the page too
        raise failure(errno.EINVAL, f"{call} of {length} bytes at {address:#x}, which is not whole pages")
    return address, length, mapping, view
