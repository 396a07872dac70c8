"""The host: a daemon that makes memory regions at fixed addresses and hands them to clients."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shmhost.serving.embedded import EmbeddedHost, embedded, start
    from shmhost.serving.server import Host
    from shmhost.settings.config import Config
    from shmprotocol import __version__
    from shmprotocol.errors import HostError

__all__ = ["__version__", "Config", "EmbeddedHost", "Host", "HostError", "embedded", "start"]

# Imported when they are first used: pytest loads `shmhost.testing.plugin` in each of its runs, and the host
# with its libraries takes 250 ms.
_LATER = {
    "__version__": "shmprotocol",
    "HostError": "shmprotocol.errors",
    "Config": "shmhost.settings.config",
    "Host": "shmhost.serving.server",
    **dict.fromkeys(("EmbeddedHost", "embedded", "start"), "shmhost.serving.embedded"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
