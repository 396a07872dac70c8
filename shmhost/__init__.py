"""The host: a daemon that makes memory regions at fixed addresses and hands them to clients."""

from shmhost._embedded import EmbeddedHost, embedded, start
from shmhost.config import Config
from shmhost.server import Host
from shmhost.socket_file import HostError

__all__ = ["Config", "EmbeddedHost", "Host", "HostError", "embedded", "start"]
