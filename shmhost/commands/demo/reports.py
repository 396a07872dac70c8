"""Collects the lines that processes of a demo report, as they come. Prints nothing."""

from __future__ import annotations

import json
import os
import select
import statistics
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shmprotocol.errors import ShmError

LAST = 5  # reports: a second


@dataclass(slots=True)
class Stream:
    """The reports of a process: the sums of all of them, and the rate and the ages of the last second."""

    who: str
    pid: int
    values: int = 0
    broken: int = 0
    last: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=LAST))

    def add(self, report: Mapping[str, Any]) -> None:
        """Add a report."""
        self.values += report["values"]
        self.broken += report["broken"]
        self.last.append(report)

    @property
    def rate(self) -> float:
        """Values a second."""
        seconds = sum(report["seconds"] for report in self.last)
        return sum(report["values"] for report in self.last) / seconds if seconds else 0.0

    def age_us(self, key: str) -> float | None:
        """Return the middle one of the reports' ages, `p50_us` or `p99_us`; None without any."""
        ages = [report[key] for report in self.last if key in report]
        return statistics.median(ages) if ages else None


class Reports:
    """Reads what children print, without waiting for one of them alone."""

    def __init__(self, children: Mapping[str, subprocess.Popen[str]]) -> None:
        self.streams: list[Stream] = [Stream(who, child.pid) for who, child in children.items()]
        self._children = list(children.values())
        self._lines = [b""] * len(self._children)

    def collect(self, seconds: float) -> None:
        """Take reports for some time. ShmError: a process ended, which none should."""
        end = time.monotonic() + seconds
        pipes = {_pipe(child): index for index, child in enumerate(self._children)}
        while (left := end - time.monotonic()) > 0:
            for pipe in select.select(list(pipes), [], [], left)[0]:
                self._take(pipes[pipe], os.read(pipe, 65536))

    def wait_for_all(self, seconds: float) -> None:
        """Take reports until each process has sent one. ShmError: one has not, in time."""
        end = time.monotonic() + seconds
        while silent := [stream.who for stream in self.streams if not stream.values]:
            if time.monotonic() > end:
                raise ShmError(f"no report within {seconds:g} s from {', '.join(silent)}")
            self.collect(0.05)

    def _take(self, index: int, data: bytes) -> None:
        if not data:
            who, child = self.streams[index].who, self._children[index]
            raise ShmError(f"{who} ended early, with code {child.wait()}: see its output above")
        *lines, self._lines[index] = (self._lines[index] + data).split(b"\n")
        for line in lines:
            self.streams[index].add(json.loads(line))


def _pipe(child: subprocess.Popen[str]) -> int:
    assert child.stdout is not None
    return child.stdout.fileno()
