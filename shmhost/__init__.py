"""The host: a daemon that makes memory regions at fixed addresses and hands them to clients."""

from shmhost.serving.embedded import EmbeddedHost, embedded, start
from shmhost.serving.server import Host
from shmhost.settings.config import Config
from shmprotocol import __version__
from shmprotocol.errors import HostError

__all__ = ["__version__", "Config", "EmbeddedHost", "Host", "HostError", "embedded", "start"]
