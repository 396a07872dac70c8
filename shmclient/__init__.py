"""The client: share memory with other processes through a shmhost, without copies.

    shm = shmclient.connect()
    shm.put("weights", array)
    weights = shm.get("weights")

`shmclient.aio` has the same for asyncio and trio. Durations are seconds: `wait` limits how long a name
or a host may be missing, `timeout` how long a running host may take to answer. Sizes are bytes.
"""

from shmclient import posix
from shmclient._codecs import RegionDict
from shmclient._pins import pinner as pinning
from shmclient._pins.iovec import IoVec, preadv, pwritev, readv, writev
from shmclient._pins.pinner import Leak, Pinned, Pinner
from shmclient._pointers.check import unchecked
from shmclient._regions.builder import RegionBuilder
from shmclient._regions.info import Change, RegionInfo
from shmclient._regions.pointers import check_pointers
from shmclient.client import Client, Follow, Region, Watch, connect
from shmprotocol import __version__
from shmprotocol.errors import (
    AccessDenied,
    AddressConflict,
    BadRegion,
    ClientClosed,
    Closed,
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
    RegionTimeout,
    RemoteProtocolError,
    ShmError,
    Unsupported,
    WaitTimeout,
    WrongEventLoop,
)

__all__ = [
    "__version__",
    "AccessDenied",
    "AddressConflict",
    "BadRegion",
    "RegionTimeout",
    "Closed",
    "ClientClosed",
    "Change",
    "Client",
    "Follow",
    "HostGone",
    "HostTimeout",
    "InvalidArgument",
    "IoVec",
    "Leak",
    "LocalProtocolError",
    "OutOfMemory",
    "PinReleased",
    "Pinned",
    "Pinner",
    "PointerEscapes",
    "ProtocolError",
    "QuotaExceeded",
    "Region",
    "RegionBuilder",
    "RegionBusy",
    "RegionClosed",
    "RegionDict",
    "RegionExists",
    "RegionInfo",
    "RegionNotFound",
    "RemoteProtocolError",
    "ShmError",
    "Unsupported",
    "WaitTimeout",
    "WrongEventLoop",
    "Watch",
    "check_pointers",
    "connect",
    "pinning",
    "posix",
    "preadv",
    "pwritev",
    "readv",
    "unchecked",
    "writev",
]
