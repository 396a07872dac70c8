"""The client: share memory with other processes through a shmhost, without copies.

    shm = shmclient.connect()
    shm.put("weights", array)
    weights = shm.get("weights")

`shmclient.aio` has the same for asyncio and trio.
"""

from shmclient.builder import RegionBuilder
from shmclient.client import Change, Client, Region, Watch, connect
from shmprotocol.errors import (
    AccessDenied,
    AddressConflict,
    BadRegion,
    HostGone,
    HostTimeout,
    InvalidArgument,
    LocalProtocolError,
    OutOfMemory,
    PinReleased,
    PointerEscapes,
    ProtocolError,
    QuotaExceeded,
    RegionBusy,
    RegionClosed,
    RegionExists,
    RegionNotFound,
    RemoteProtocolError,
    ShmError,
    Unsupported,
    WaitTimeout,
)
from shmprotocol.messages import RegionInfo

__all__ = [
    "AccessDenied",
    "AddressConflict",
    "BadRegion",
    "Change",
    "Client",
    "HostGone",
    "HostTimeout",
    "InvalidArgument",
    "LocalProtocolError",
    "OutOfMemory",
    "PinReleased",
    "PointerEscapes",
    "ProtocolError",
    "QuotaExceeded",
    "Region",
    "RegionBuilder",
    "RegionBusy",
    "RegionClosed",
    "RegionExists",
    "RegionInfo",
    "RegionNotFound",
    "RemoteProtocolError",
    "ShmError",
    "Unsupported",
    "WaitTimeout",
    "Watch",
    "connect",
]
