"""The exports of the compiled module; a test compares them with the binary."""

from typing import Any

ffi: Any

class _Lib:
    SHM_ABI_MAJOR: int
    SHM_ABI_MINOR: int
    SHM_HEADER_SIZE: int
    SHM_NAME_MAX: int
    SHM_METADATA_MAX: int
    SHM_KIND_DATA: int
    SHM_KIND_OBJECTS: int
    SHM_FLAG_SEAL_FULL: int
    SHM_FLAG_SEAL_WRITER: int
    SHM_FLAG_UNSEALED: int
    SHM_FLAG_SEAL_SHARED: int
    SHM_FLAG_GROWS: int
    SHM_KIND_BOARD: int
    SHM_BOARD_LINE_SIZE: int
    SHM_MAP_WRITABLE: int
    SHM_MAP_RESERVED: int
    SHM_MAP_UNSEALED: int
    SHM_MAP_SHARED: int
    SHM_MAP_ANYWHERE: int
    SHM_MAP_ARENA: int
    SHM_VALUE_SHARED_DESCRIPTION: int
    SHM_KIND_ARENA: int
    SHM_FLAG_ARENA: int
    SHM_ARENA_VERSION: int
    SHM_ARENA_UNIT: int
    SHM_ARENA_NAMES_MAX: int
    SHM_ARENA_READY: int
    SHM_ARENA_GROW: int
    SHM_ARENA_LEDGER: int
    SHM_ARENA_FORGET: int
    SHM_ARENA_BOARD: int
    SHM_ARENA_LEAVE: int
    SHM_ARENA_KEEP: int
    SHM_ARENA_BACK: int
    SHM_ARENA_REST: int
    SHM_LEDGER_WAITS: int
    SHM_VALUE_OBJECTS: int
    def shm_reserve(self, address: int, size: int, /) -> int: ...
    def shm_map(self, fd: int, address: int, capacity: int, flags: int, /) -> int: ...
    def shm_attach(self, fd: int, address: int, capacity: int, flags: int, /) -> int: ...
    def shm_freeze(self, fd: int, address: int, capacity: int, /) -> int: ...
    def shm_unmap(self, address: int, capacity: int, flags: int, /) -> int: ...
    def shm_header_check(self, header: Any, object_size: int, /) -> int: ...
    F_SEAL_EXEC: int
    F_SEAL_FUTURE_WRITE: int
    MADV_HWPOISON: int
    MADV_POPULATE_READ: int
    MADV_POPULATE_WRITE: int
    MAP_32BIT: int
    MAP_FILE: int
    MAP_FIXED: int
    MAP_FIXED_NOREPLACE: int
    MAP_GROWSDOWN: int
    MAP_HUGETLB: int
    MAP_LOCKED: int
    MAP_NONBLOCK: int
    MAP_NORESERVE: int
    MAP_SHARED_VALIDATE: int
    MAP_SYNC: int
    MAP_TYPE: int
    MCL_CURRENT: int
    MCL_FUTURE: int
    MCL_ONFAULT: int
    MFD_EXEC: int
    MFD_NOEXEC_SEAL: int
    MREMAP_DONTUNMAP: int
    MREMAP_FIXED: int
    MREMAP_MAYMOVE: int
    MS_ASYNC: int
    MS_INVALIDATE: int
    MS_SYNC: int
    NAME_MAX: int
    PROT_NONE: int
    SO_PEERPIDFD: int
    SHM_IOV_MAX: int
    SHM_BUFFERS_READ_ONLY: int
    SHM_TRANSFER_INTERRUPTED: int
    SHM_TRANSFER_WRITE: int
    SHM_TRANSFER_AT: int
    def shm_memory_new(
        self, target: int, address: int, size: int, is_writable: int, on_release: int, /
    ) -> int: ...
    def shm_memory_exports(self, memory: int, /) -> int: ...
    def shm_memory_disown(self, memory: int, /) -> None: ...
    def shm_mmap(self, address: int, length: int, prot: int, flags: int, fd: int, offset: int, /) -> int: ...
    def shm_munmap(self, address: int, length: int, /) -> int: ...
    def shm_mprotect(self, address: int, length: int, prot: int, /) -> int: ...
    def shm_msync(self, address: int, length: int, flags: int, /) -> int: ...
    def shm_madvise(self, address: int, length: int, advice: int, /) -> int: ...
    def shm_mlock(self, address: int, length: int, /) -> int: ...
    def shm_munlock(self, address: int, length: int, /) -> int: ...
    def shm_mlockall(self, flags: int, /) -> int: ...
    def shm_munlockall(self) -> int: ...
    def shm_object_open(self, name: bytes, flags: int, mode: int, /) -> int: ...
    def shm_object_unlink(self, name: bytes, /) -> int: ...
    def shm_slot_store(self, slot: int, address: int, /) -> None: ...
    def shm_slot_clear(self, slot: int, first: int, last: int, /) -> None: ...
    def shm_buffers_pin(self, objects: int, count: int, views: Any, iov: Any, /) -> int: ...
    def shm_buffers_read_only(self, views: Any, count: int, /) -> int: ...
    def shm_buffers_unpin(self, views: Any, count: int, iov: Any, /) -> None: ...
    def shm_transfer(self, fd: int, iov: Any, count: int, offset: int, flags: int, done: int, /) -> int: ...
    def shm_check_pointers(
        self,
        area: Any,
        types: Any,
        type_count: int,
        members: Any,
        root: int,
        roots: int,
        stray: Any,
        path: Any,
        path_max: int,
        /,
    ) -> int: ...
    def shm_board_of(self, header: Any, /) -> Any: ...
    def shm_board_lives(self, board: Any, /) -> int: ...
    def shm_board_own(self, owner: int, /) -> int: ...
    def shm_board_disown(self, owner: int, /) -> int: ...
    def shm_board_set(self, line: int, region: int, generation: int, /) -> None: ...
    def shm_board_set_rights(self, line: int, rights: int, /) -> None: ...
    def shm_board_move(self, board: int, moved: int, /) -> None: ...
    def shm_board_move_arena(self, line: int, /) -> None: ...
    def shm_board_set_arena(self, line: int, ledgers: int, waiters: int, size: int, /) -> None: ...
    def shm_board_wait(
        self, line: int, changes: int, owner: int, waker: int, wakes: int, wait_ns: int, /
    ) -> int: ...
    def shm_wake(self, waker: int, /) -> None: ...
    def shm_word_load(self, word: int, /) -> int: ...
    def shm_builtins_install(self, target: int, /) -> int: ...

lib: _Lib
