"""Values of the arenas that this host exports: each is announced as a region, a copy that `courier` makes.

The courier is started with the first such arena, and copies values as they change. Each copy is a sealed
region of this host's slice, without a name: it is announced under that of the value, and its address is the
same on all hosts, so that pointers in it are right there. Values are taken one by one, in their order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack

from shmhost.core.hub import Gauge, Hub
from shmhost.core.meter import Latency
from shmhost.core.names import arena_over
from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.fleet.config import FleetConfig
from shmhost.fleet.exports import Exports, Rights
from shmhost.fleet.outbox import Outbox
from shmhost.fleet.pulls import LAGS
from shmprotocol.errors import InvalidArgument
from shmprotocol.wire.names import ChangeKind, State, check_name

LOG = logging.getLogger("shmhost")

FOLDER = "SHMHOST_FLEET_FOLDER"  # the variable with the folder of the copies' names
AGAIN_S = 2.0  # before another one takes the place of a courier that has ended
END_S = 5.0  # for the courier to end


@dataclass(eq=False, slots=True)
class Followed:
    """An arena whose values are announced."""

    region: Region
    rights: Rights
    names: set[str] = field(default_factory=set)  # short ones, that are announced
    before: set[str] = field(default_factory=set)  # those of an arena before it, that have not come again
    refused: dict[str, str] = field(default_factory=dict)  # by name: why it is not announced; "": the arena


class Values:
    """The arenas under the exported prefixes, and the process that copies their values."""

    def __init__(self, plan: FleetConfig, hub: Hub, exports: Exports, socket_path: str) -> None:
        self.followed: dict[str, Followed] = {}
        self.counts: Counter[str] = Counter()
        self.waits: Latency = Latency(LAGS)  # of values, from the put to the announcement
        self._plan = plan
        self._hub = hub
        self._exports = exports
        self._path = socket_path
        # Where couriers put their copies: of this host first, and of those before it. Each is a secret: who
        # knows it can take the names of copies.
        self.folders: tuple[str, ...] = (f"fleet-{secrets.token_hex(8)}",)
        exports.staging = (f"{self.folders[0]}/",)
        self._peer = Peer(os.geteuid(), os.getegid(), os.getpid())
        self._unsaid: list[tuple[str, str]] = []  # values that were refused, and why: not yet in the log
        self._ended_s = -AGAIN_S  # when the courier has ended
        self._outbox: Outbox | None = None
        self._task: asyncio.Task[None] | None = None

    def beat(self) -> None:
        """Do what is to be done now and then."""
        self._say_refused()
        self.look()

    def look(self) -> None:
        """Follow the arenas that are there now, and no others."""
        arenas = {region.name: region for region in self._hub.registry.arenas if self._is_exported(region)}
        for name in [name for name in self.followed if name not in arenas]:
            followed = self.followed.pop(name)
            for short in followed.names | followed.before:
                self._exports.remove(f"{name}/{short}")
            self._say("end", name, followed.region.number)
        for name, region in arenas.items():
            before = self.followed.get(name)
            if before is None or before.region is not region:
                self._follow(region, before)
            elif before.rights != Rights.of(region):
                self._change(region, before)
        if self.followed and self._task is None and time.monotonic() > self._ended_s + AGAIN_S:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def resume(self, folders: tuple[str, ...]) -> None:
        """Go on with what a host before has announced, as it is now: a courier finds the values again.

        `folders` are those where its courier, and those before it, have put copies.
        """
        self.folders += folders
        self._exports.staging = tuple(f"{folder}/" for folder in self.folders)
        for name in self._exports.entries:
            region = arena_over(name, self._hub.registry.current)
            if region is not None and self._is_exported(region):
                followed = self.followed.setdefault(region.name, Followed(region, Rights.of(region)))
                followed.before.add(name[len(region.name) + 1 :])

    def has(self, name: str) -> bool:
        """Whether a name that is announced lies below an arena that is followed."""
        region = arena_over(name, self._hub.registry.current)
        return region is not None and region.name in self.followed

    def end_left(self, region: Region) -> None:
        """Take the name of a copy away that the courier of a host before has made: nobody takes it."""
        if region.name.startswith(self._exports.staging[1:]) and region.state is State.CURRENT:
            self._hide(region)

    def failed(self) -> dict[str, str]:
        """Return which values are not announced, and why."""
        return {
            f"{name}/{short}" if short else name: reason
            for name, each in self.followed.items()
            for short, reason in each.refused.items()
        }

    def gauges(self) -> tuple[Gauge, ...]:
        """Return the figures for metrics."""
        counts = self.counts
        skipped = sum(count for name, count in counts.items() if name.startswith("skipped "))
        refused = sum(len(each.refused) for each in self.followed.values())
        return (
            ("fleet_arenas", "Arenas whose values are announced", len(self.followed)),
            ("fleet_values", "Values of arenas that were announced since the start", counts["values"]),
            ("fleet_values_skipped", "Values that were replaced before they were announced", skipped),
            ("fleet_values_late", "Values that had waited for longer than `lag`", counts["late"]),
            ("fleet_values_refused", "Values, or arenas, that cannot be announced", refused),
            ("fleet_value_wait_seconds", "From a value's put to its announcement", self.waits.copy()),
        )

    async def close(self) -> None:
        """End the courier."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _is_exported(self, region: Region) -> bool:
        below = f"{region.name}/"
        return region.state is State.CURRENT and any(
            below.startswith(prefix) or prefix.startswith(below) for prefix in self._plan.exports
        )

    def _follow(self, region: Region, before: Followed | None) -> None:
        names = before.names | before.before if before is not None else set()
        self.followed[region.name] = Followed(region, Rights.of(region), before=names)
        self._say("arena", region.name, region.number)

    def _change(self, region: Region, followed: Followed) -> None:
        """Announce another mode of an arena; if this host could not read it, that may be over."""
        followed.rights = Rights.of(region)
        for short in followed.names | followed.before:
            self._exports.change(f"{region.name}/{short}", followed.rights)
        if followed.refused.pop("", ""):
            self._say("arena", region.name, region.number)

    async def _run(self) -> None:
        """Run the courier; if it ends, look again with the next beat."""
        loop = asyncio.get_running_loop()
        own, other = socket.socketpair()
        child: subprocess.Popen[bytes] | None = None
        try:
            arguments = self._path, str(self._plan.lag_s)
            spawning = loop.run_in_executor(None, _spawn, other, self.folders[0], arguments)
            try:
                child = await asyncio.shield(spawning)
            except asyncio.CancelledError:
                child = await spawning
                raise
            own.setblocking(False)
            self._outbox = Outbox(own)
            for name, followed in self.followed.items():
                followed.before, followed.names = followed.before | followed.names, set()
                self._say("arena", name, followed.region.number)
            await self._hear(own)
            LOG.error("fleet %s: the process that copies values of arenas has ended", self._plan.fleet)
        except Exception:
            LOG.exception("fleet %s: values of arenas are not announced for a moment", self._plan.fleet)
        finally:
            if self._outbox is not None:
                self._outbox.close()
            self._outbox = None
            own.close()  # it ends by that
            self._hide_copies()
            self._task, self._ended_s = None, time.monotonic()
            if child is not None:
                await asyncio.shield(loop.run_in_executor(None, _end, child))

    async def _hear(self, link: socket.socket) -> None:
        unpacker = msgpack.Unpacker(use_list=False)
        while data := await asyncio.get_running_loop().sock_recv(link, 65536):
            unpacker.feed(data)
            for message in unpacker:
                await self._take(*message)

    async def _take(self, kind: str, name: str, number: int, *values: Any) -> None:
        followed = self.followed.get(name)
        is_followed = followed is not None and followed.region.number == number
        if kind == "value":
            await self._take_value(followed if is_followed else None, name, *values)
        elif followed is None or not is_followed:
            return
        elif kind == "gone":
            self._remove(name, followed, *values)
        elif kind == "whole":
            for short in list(followed.before):
                self._remove(name, followed, short)
        elif kind == "refused":
            short, reason = values
            if followed.refused.get(short) != reason:
                self._unsaid.append((f"{name}/{short}", reason))
            self._remove(name, followed, short)
            followed.refused[short] = reason

    async def _take_value(
        self, followed: Followed | None, arena: str, short: str, copy: str, skipped: int, waited_ns: int
    ) -> None:
        """Announce a copy, and take its name away; the lease of `exports` keeps it."""
        region, registry = self._hub.registry.current.get(copy), self._hub.registry
        self._say("ack")
        if region is None or region.owner.uid != self._peer.uid:  # nobody else's is announced as the value
            return
        lease = registry.lease(region, self._peer)
        self._hide(region)
        name = f"{arena}/{short}"
        if followed is None or not self._may_announce(name):
            registry.release(region, lease)
            return
        followed.before.discard(short)
        followed.refused.pop(short, None)
        followed.names.add(short)
        rights = followed.rights
        await self._exports.add(name, region, lease, rights)
        if self.followed.get(arena) is not followed or short not in followed.names:
            self._exports.remove(name)
        elif followed.rights != rights:  # meanwhile
            self._exports.change(name, followed.rights)
        if waited_ns:  # else it was there before it was followed
            self.waits.note(waited_ns)
        self.counts["values"] += 1
        self.counts["late"] += waited_ns > self._plan.lag_s * 1e9
        self.counts[f"skipped {arena}"] = max(self.counts[f"skipped {arena}"], skipped)

    def _may_announce(self, name: str) -> bool:
        with contextlib.suppress(InvalidArgument):
            return check_name(name).startswith(self._plan.exports)
        return False

    def _remove(self, arena: str, followed: Followed, short: str) -> None:
        followed.before.discard(short)
        followed.refused.pop(short, None)
        if short:
            followed.names.discard(short)
            self._exports.remove(f"{arena}/{short}")

    def _say_refused(self) -> None:
        """Write one line for all values that were refused since the last one."""
        unsaid, self._unsaid = self._unsaid, []
        if unsaid:
            name, reason = unsaid[0]
            more = f", nor are {len(unsaid) - 1} more: see `shmhost fleet`" if len(unsaid) > 1 else ""
            LOG.warning("fleet %s: %s is not announced: %s%s", self._plan.fleet, name, reason, more)

    def _hide(self, region: Region) -> None:
        self._hub.registry.hide(region)
        self._hub.tell(ChangeKind.UNLINKED, region)

    def _hide_copies(self) -> None:
        """Take away the names of copies that the courier has made, and that were not taken."""
        current = self._hub.registry.current
        for name in [name for name in current if name.startswith(self._exports.staging)]:
            self._hide(current[name])

    def _say(self, *values: object) -> None:
        """Tell the courier. It reads at once; if it does not, another one takes its place."""
        if self._outbox is not None:
            self._outbox.say(*values)


def _spawn(link: socket.socket, folder: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a courier at the other end of a link, which is closed here.

    Each user sees the arguments of a process, and only its own user the environment: proc_pid_environ(5).
    """
    # -P: modules of its own, and not those that lie in the folder where the host was started.
    command = [sys.executable, "-P", "-m", "shmhost.fleet.courier", *arguments]
    with link:
        environment = {**os.environ, FOLDER: folder}
        return subprocess.Popen(command, stdin=link.fileno(), stdout=subprocess.DEVNULL, env=environment)


def _end(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
