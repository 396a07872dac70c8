"""A host for tests: pytest fixtures (see `plugin`), faults, and a check for what a test has left.

    def test_reader_survives_the_host(shm_host, shm_client):
        shm_client.put("config", b"1")
        value = shm_client.get("config")
        shm_host.kill()
        assert bytes(value) == b"1"

Imports nothing until it is used: pytest loads this package in each of its runs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shmhost.testing.leaks import Leftovers
    from shmhost.testing.process import HostProcess

__all__ = ["HostProcess", "Leftovers"]


_LATER = {"HostProcess": "shmhost.testing.process", "Leftovers": "shmhost.testing.leaks"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LATER[name]), name)
    return value
