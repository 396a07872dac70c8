"""The client: share memory with other processes through a shmhost, without copies.

    shm = shmclient.connect()
    shm.put("weights", array)
    weights = shm.get("weights")

`shmclient.aio` has the same for asyncio and trio. Durations are seconds: `wait` limits how long a name
or a host may be missing, `timeout` how long a running host may take to answer. Sizes are bytes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shmclient._codecs import PickledObject, RegionDict, pickled
from shmclient._drivers.handles import Region
from shmclient.client import Client, connect
from shmprotocol import __version__
from shmprotocol.errors import (
    AccessDenied,
    AddressConflict,
    ArenaFull,
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

if TYPE_CHECKING:
    from shmclient import posix
    from shmclient._arenas.building import ArenaBuilder
    from shmclient._arenas.held import ArenaValue
    from shmclient._arenas.owner import Arena
    from shmclient._arenas.view import ArenaChange
    from shmclient._codecs.arrow_value import ArrowArrayValue, ArrowValue
    from shmclient._drivers.arena_views import ArenaView
    from shmclient._drivers.crossing import Reference, reference, share_arrays
    from shmclient._drivers.streams import Follow, Watch
    from shmclient._drivers.tensor_files import (
        SafeTensors,
        put_safetensors,
        read_safetensors,
        write_safetensors,
    )
    from shmclient._pins import pinner as pinning
    from shmclient._pins.iovec import IoVec, preadv, pwritev, readv, writev
    from shmclient._pins.pinner import Leak, Pinned, Pinner
    from shmclient._pointers.check import unchecked
    from shmclient._regions.builder import RegionBuilder
    from shmclient._regions.info import Change, RegionInfo
    from shmclient._regions.pointers import check_pointers

__all__ = [
    "__version__",
    "AccessDenied",
    "AddressConflict",
    "Arena",
    "ArenaBuilder",
    "ArenaChange",
    "ArenaFull",
    "ArenaValue",
    "ArenaView",
    "ArrowArrayValue",
    "ArrowValue",
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
    "PickledObject",
    "PinReleased",
    "Pinned",
    "Pinner",
    "PointerEscapes",
    "ProtocolError",
    "QuotaExceeded",
    "Reference",
    "Region",
    "RegionBuilder",
    "RegionBusy",
    "RegionClosed",
    "RegionDict",
    "RegionExists",
    "RegionInfo",
    "RegionNotFound",
    "RemoteProtocolError",
    "SafeTensors",
    "ShmError",
    "Unsupported",
    "WaitTimeout",
    "WrongEventLoop",
    "Watch",
    "check_pointers",
    "connect",
    "pickled",
    "pinning",
    "posix",
    "preadv",
    "put_safetensors",
    "pwritev",
    "read_safetensors",
    "readv",
    "reference",
    "share_arrays",
    "unchecked",
    "write_safetensors",
    "writev",
]

# Imported when they are first used: a program that only reads starts in half the time.
_LATER = {
    "posix": "shmclient.posix",
    "pinning": "shmclient._pins.pinner",
    **dict.fromkeys(("IoVec", "preadv", "pwritev", "readv", "writev"), "shmclient._pins.iovec"),
    **dict.fromkeys(("Leak", "Pinned", "Pinner"), "shmclient._pins.pinner"),
    "Arena": "shmclient._arenas.owner",
    "ArenaBuilder": "shmclient._arenas.building",
    "ArenaValue": "shmclient._arenas.held",
    "ArenaChange": "shmclient._arenas.view",
    "ArenaView": "shmclient._drivers.arena_views",
    **dict.fromkeys(("ArrowArrayValue", "ArrowValue"), "shmclient._codecs.arrow_value"),
    **dict.fromkeys(
        ("SafeTensors", "put_safetensors", "read_safetensors", "write_safetensors"),
        "shmclient._drivers.tensor_files",
    ),
    **dict.fromkeys(("Follow", "Watch"), "shmclient._drivers.streams"),
    **dict.fromkeys(("Reference", "reference", "share_arrays"), "shmclient._drivers.crossing"),
    "unchecked": "shmclient._pointers.check",
    "RegionBuilder": "shmclient._regions.builder",
    **dict.fromkeys(("Change", "RegionInfo"), "shmclient._regions.info"),
    "check_pointers": "shmclient._regions.pointers",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_LATER[name])
    value = module if name in ("posix", "pinning") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
