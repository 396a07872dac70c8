"""The contract between host, clients and third parties: errors, messages, names and limits.

These are the names that a client in Python can rely on; it needs no others. Uses no socket and no memory.
"""

from shmprotocol.errors import (
    REFUSALS,
    AccessDenied,
    AddressConflict,
    BadRegion,
    Cancelled,
    ClientClosed,
    Closed,
    HostError,
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
    refusal,
)
from shmprotocol.wire import messages
from shmprotocol.wire.connection import Connection, pack
from shmprotocol.wire.names import (
    MAX_ARRAY,
    MAX_DESCRIPTORS,
    MAX_FRAME,
    MAX_GENERATION,
    MAX_METADATA,
    MAX_MODE,
    MAX_NAME,
    MAX_REQUEST,
    Backend,
    ChangeKind,
    Seal,
    State,
    check_name,
)
from shmprotocol.wire.paths import MAX_SOCKET_PATH, socket_path

__version__ = "0.1.0"

__all__ = [
    "__version__",
    # the conversation
    "Connection",
    "messages",
    "pack",
    "socket_path",
    # words
    "Backend",
    "ChangeKind",
    "Seal",
    "State",
    "check_name",
    # limits
    "MAX_ARRAY",
    "MAX_DESCRIPTORS",
    "MAX_FRAME",
    "MAX_GENERATION",
    "MAX_METADATA",
    "MAX_MODE",
    "MAX_NAME",
    "MAX_REQUEST",
    "MAX_SOCKET_PATH",
    # errors
    "REFUSALS",
    "refusal",
    "AccessDenied",
    "AddressConflict",
    "BadRegion",
    "Cancelled",
    "ClientClosed",
    "Closed",
    "HostError",
    "HostGone",
    "HostTimeout",
    "InvalidArgument",
    "LocalProtocolError",
    "OutOfMemory",
    "PinReleased",
    "PointerEscapes",
    "ProtocolError",
    "QuotaExceeded",
    "RegionBusy",
    "RegionClosed",
    "RegionExists",
    "RegionNotFound",
    "RegionTimeout",
    "RemoteProtocolError",
    "ShmError",
    "Unsupported",
    "WaitTimeout",
    "WrongEventLoop",
]
