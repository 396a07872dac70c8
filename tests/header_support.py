"""A header that is right in each of its fields, for tests to spoil one."""

from __future__ import annotations

from shmprotocol.abi.header import FLAG_SEAL_FULL, Header

BASE = 0x550000000000
CAPACITY = 8192
GOOD = Header(
    kind=1,
    flags=FLAG_SEAL_FULL,
    base=BASE,
    size=4096 + 100,
    capacity=CAPACITY,
    data=BASE + 4096,
    data_size=100,
    root=BASE + 4096 + 8,
    root_size=16,
    generation=3,
    created_ns=123456789,
    creator_uid=1000,
    creator_gid=1001,
    creator_pid=-1,
    window_base=BASE,
    window_size=1 << 30,
    metadata=BASE + 4096 + 90,
    metadata_size=10,
    name="a/b",
)
