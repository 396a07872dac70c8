"""What the compiled module exports; a test holds it against the binary."""

from typing import Any

ffi: Any

class _Lib:
    SHM_ABI_MAJOR: int
    SHM_ABI_MINOR: int
    SHM_HEADER_SIZE: int
    SHM_NAME_MAX: int
    SHM_KIND_DATA: int
    SHM_KIND_OBJECTS: int
    SHM_FLAG_SEAL_FULL: int
    SHM_FLAG_SEAL_WRITER: int
    SHM_FLAG_UNSEALED: int
    SHM_MAP_WRITABLE: int
    SHM_MAP_RESERVED: int
    SHM_MAP_UNSEALED: int
    SHM_MAP_ANYWHERE: int
    def shm_reserve(self, address: int, size: int, /) -> int: ...
    def shm_map(self, fd: int, address: int, capacity: int, flags: int, /) -> int: ...
    def shm_attach(self, fd: int, address: int, capacity: int, flags: int, /) -> int: ...
    def shm_unmap(self, address: int, capacity: int, flags: int, /) -> int: ...
    def shm_header_check(self, header: Any, object_size: int, /) -> int: ...

lib: _Lib
