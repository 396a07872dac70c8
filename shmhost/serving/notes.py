"""The notes of a host in its lock file: the count of starts there, and the ceiling of generations."""

from __future__ import annotations

import logging
import time

from shmhost.core.generations import Generations
from shmhost.core.meter import Meter
from shmhost.machine.socket_file import Lock

LOG = logging.getLogger("shmhost")


class Notes:
    """The notes of the host at a path, once it has its lock."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.lock: Lock | None = None
        self._failed = False

    def begin(self, meter: Meter, generations: Generations) -> None:
        """Count this start, and go on above the generations of earlier hosts."""
        assert self.lock is not None
        self.count_start(meter)
        ceiling = self.lock.ceiling
        if ceiling is None:
            ceiling = int(time.time())  # above the numbers of a host that began at 1
            LOG.warning("%s.lock is damaged: generations continue at %d", self._path, ceiling)
        generations.resume(ceiling)

    def count_start(self, meter: Meter) -> None:
        """Count this start."""
        assert self.lock is not None
        meter.restarts = self.lock.starts
        try:
            self.lock.count()
        except OSError as error:  # no lock, or no space: only a figure is lost
            LOG.warning("cannot count this start: %s", error.strerror)

    def store_ceiling(self, ceiling: int) -> None:
        """Store the ceiling of generations, until that fails once."""
        if self.lock is None or self._failed:
            return
        try:
            self.lock.store_ceiling(ceiling)
        except OSError as error:
            self._failed = True
            LOG.warning("after a restart generations will start at a lower number: %s", error.strerror)
