"""The host: a daemon that makes memory regions at fixed addresses and hands them to clients."""

from shmhost.machine.socket_file import HostError
from shmhost.serving.embedded import EmbeddedHost, embedded, start
from shmhost.serving.server import Host
from shmhost.settings.config import Config

__all__ = ["Config", "EmbeddedHost", "Host", "HostError", "embedded", "start"]
