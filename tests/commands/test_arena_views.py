"""Arenas in `ls`, `stat`, `who`, `top`, `map` and the metrics, asked of a real host."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shmclient
from arena_support import MESSAGE, SIZE, ArenaPeer, Owned, fill, hold
from shmhost.core.surveying import MAX_HOLDS
from shmhost.machine import arena_names
from shmhost.machine.arena_names import ENTRY_SIZE, values_in
from shmprotocol.errors import BadRegion
from shmprotocol.native.binding import ffi
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.names import LEDGER_HOLDS
from shmprotocol.wire.query import Query
from support import WatchedHost, as_nobody, needs_root, wait_until, watched_host

pytestmark = pytest.mark.usefixtures("leaves_nothing")
LONG = "a-name-that-takes-more-than-its-entry/has-room-for"
VALUES = {"front": b"frame", "left": b"another", LONG: b"x" * 100}


def run(host: WatchedHost, *arguments: str) -> str:
    command = [sys.executable, "-m", "shmhost", *arguments, "--socket", host.socket_path]
    return subprocess.check_output(command, env=os.environ | {"COLUMNS": "80"}, text=True, timeout=30)


def rows(host: WatchedHost, *arguments: str) -> Any:
    return json.loads(run(host, *arguments, "--json"))


def publish(owner: ArenaPeer, name: str = "camera") -> tuple[Owned, dict[str, int]]:
    owned = owner.make(name, SIZE, 4 * SIZE)
    blocks = fill(owned.memory, VALUES, older={"front": b"before"})
    assert owned.ready() == 0
    return owned, blocks


def test_ls_shows_arenas_with_names_and_bytes(host: WatchedHost, owner: ArenaPeer, reader: ArenaPeer) -> None:
    owned, _ = publish(owner)
    owner.put("other")
    line = next(line for line in run(host, "ls").splitlines() if "camera" in line)
    assert "camera/ 3 names, 112 B" in " ".join(line.split())
    reader.open("camera")
    row = next(row for row in rows(host, "ls") if row["name"] == "camera")
    assert row["kind"] == 4
    assert row["arena"] == {
        "span": 4 * SIZE,
        "names": 3,
        "value_bytes": 112,
        "values": 13,
        "ledgers": 1,
        "has_owner": True,
    }
    assert next(row for row in rows(host, "ls") if row["name"] == "other")["arena"] is None
    owned.leave()
    wait_until(lambda: "no owner" in run(host, "ls"))


def test_ls_of_an_arena_shows_the_names_in_it(host: WatchedHost, owner: ArenaPeer) -> None:
    owned, blocks = publish(owner)
    shown = rows(host, "ls", "camera/")
    assert [row["name"] for row in shown] == [f"camera/{name}" for name in sorted(VALUES)]
    front = next(row for row in shown if row["name"] == "camera/front")
    assert (front["generation"], front["size"]) == (10, 5)
    assert front["address"] == owned.made.address + blocks["front"]
    assert abs(front["published_ns"] - time.time_ns()) < 60e9
    assert [row["name"] for row in rows(host, "ls", "camera/fr")] == ["camera/front"]
    output = run(host, "ls", "camera/")
    assert "camera/left" in output
    assert max(map(len, output.splitlines())) <= 80


def test_stat_says_what_only_an_arena_has(host: WatchedHost, owner: ArenaPeer) -> None:
    publish(owner)
    output = " ".join(run(host, "stat", "camera").split())
    assert "3 names, 112 B; 13 values published so far" in output
    assert f"{4 * SIZE} bytes" in output
    assert rows(host, "stat", "camera")["arena"]["has_owner"] is True


def test_stat_knows_a_value_in_an_arena(host: WatchedHost, owner: ArenaPeer) -> None:
    owned, blocks = publish(owner)
    row = rows(host, "stat", f"camera/{LONG}")
    assert (row["name"], row["size"], row["arena"]) == (f"camera/{LONG}", 100, "camera")
    assert row["address"] == owned.made.address + blocks[LONG]
    output = " ".join(run(host, "stat", "camera/front").split())
    assert "size 5 bytes (5 B)" in output
    assert "mode 0600" in output
    command = [sys.executable, "-m", "shmhost", "stat", "camera/fron", "--socket", host.socket_path]
    missing = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert missing.returncode == 4
    assert "the arena 'camera' has no value of this name" in " ".join(missing.stderr.split())


def test_who_says_which_value_is_held_by_whom_and_for_how_long(
    host: WatchedHost, owner: ArenaPeer, reader: ArenaPeer
) -> None:
    owned, blocks = publish(owner)
    _, fds = reader.opened("camera")
    base = owned.made.address
    an_hour_ago = time.monotonic_ns() - 3600 * 10**9
    hold(fds[1], base + blocks["left"], since_ns=max(an_hour_ago, 1))
    hold(fds[1], base + blocks["older front"], 0, 1, base + 4096 * 9, 2**64 - 1, first=1)
    shown = [row for row in rows(host, "who", "camera/") if "block" in row]
    assert [(row["name"], row["state"], row["pid"]) for row in shown] == [
        ("camera/left", "current", os.getpid()),
        ("camera/front", "superseded", os.getpid()),
        ("camera/?", "superseded", os.getpid()),
    ]
    age_s = (time.time_ns() - shown[0]["since_ns"]) / 1e9
    assert 0 <= age_s - min(3600, time.monotonic()) < 60
    assert len([row for row in rows(host, "who") if row["name"] == "camera"]) == 2  # its leases
    assert [row["name"] for row in rows(host, "who", "camera/left")] == ["camera/left"]
    table = run(host, "who")
    assert "camera/left" in table
    assert max(map(len, table.splitlines())) <= 80
    descriptors.close_all(fds)


def test_who_shows_holds_of_arenas_that_were_replaced(
    host: WatchedHost, owner: ArenaPeer, reader: ArenaPeer
) -> None:
    owned, blocks = publish(owner)
    _, fds = reader.opened("camera")
    hold(fds[1], owned.made.address + blocks["front"])
    publish(owner)
    assert [row["name"] for row in rows(host, "who", "camera/")] == ["camera/front"]
    descriptors.close_all(fds)


@pytest.mark.parametrize("count", [MAX_HOLDS - 1, MAX_HOLDS + 1, LEDGER_HOLDS])
def test_survey_goes_on_where_an_answer_is_full(
    host: WatchedHost, owner: ArenaPeer, reader: ArenaPeer, count: int
) -> None:
    owned, _ = publish(owner)
    _, fds = reader.opened("camera")
    hold(fds[1], *[owned.made.address + 4096 + i % 60_000 for i in range(count)])
    os.pwrite(fds[1], b"\xff" * 8, 0)  # as if it had used more than there are
    with Query(host.socket_path) as query:
        arena, holds = query.survey(owned.made.region)
        arena.close()
    assert [item.block - owned.made.address for item in holds] == [4096 + i % 60_000 for i in range(count)]
    descriptors.close_all(fds)


def test_survey_of_many_ledgers_keeps_no_other_waiting(
    host: WatchedHost, owner: ArenaPeer, reader: ArenaPeer
) -> None:
    owned, _ = publish(owner)
    _, fds = reader.opened("camera")
    os.pwrite(fds[1], b"\xff" * 8, 0)
    reader.send(pack(m.Survey(7, owned.made.region, 0, 0)))
    assert isinstance(owner.put("other"), m.Published)
    reply, more = reader.receive()
    assert isinstance(reply, m.Surveyed)
    assert reply.holds == ()
    assert reply.hold > 0
    descriptors.close_all([*fds, *more])


@pytest.mark.parametrize("region", [0, 1, 2**63])
def test_survey_is_refused_for_what_is_not_an_arena(owner: ArenaPeer, region: int) -> None:
    owner.put("other")
    assert owner.refusal(m.Survey(3, region, 0, 0)).code == "invalid"


def test_survey_does_not_open_an_arena(host: WatchedHost, owner: ArenaPeer) -> None:
    owned, _ = publish(owner)
    run(host, "ls", "camera/")
    assert owned.grow(SIZE) == (0, SIZE)
    owned.send(2, SIZE)
    assert owned.receive().kind == 2  # it has not heard of a ledger
    assert host.counts()["ledgers"] == 0


@needs_root
def test_survey_needs_the_right_to_read(tmp_path: Path, host: WatchedHost) -> None:
    path = f"/tmp/survey-{os.getpid()}.sock"

    def look() -> None:
        with ArenaPeer(path) as peer:
            assert peer.refusal(m.Survey(3, region, 0, 0)).code == "invalid"  # as one that is not there

    with watched_host(path, socket_mode=0o666), ArenaPeer(path) as owner:
        region = owner.publish(mode=0o600).made.region
        assert as_nobody(look) == 0


def test_top_and_map_know_arenas(host: WatchedHost, owner: ArenaPeer, reader: ArenaPeer) -> None:
    publish(owner)
    reader.open("camera")
    figures = rows(host, "top", "--interval", "0.1")
    assert (figures["arenas"], figures["ledgers"]) == (1, 1)
    assert figures["regions"][0]["arena"]["names"] == 3
    assert "1 arena  1 client with a ledger" in run(host, "top", "--once", "--interval", "0.1")
    regions = rows(host, "map")["regions"]
    assert [row["arena"]["span"] for row in regions] == [4 * SIZE]
    assert "camera" in run(host, "map")


def test_unlinked_arena_without_an_owner_is_told_to_those_who_watch(
    owner: ArenaPeer, reader: ArenaPeer
) -> None:
    """Its object is closed when the event is made."""
    owned, _ = publish(owner)
    reader.ask(m.Watch(5, ""))
    owned.leave()
    wait_until(lambda: owner.ask(m.Stat(3, "camera"))[0].info.leases == 0)  # type: ignore[attr-defined]
    owner.ask(m.Unlink(4, "camera"))
    event, _ = reader.receive()
    assert isinstance(event, m.Event)
    assert (event.kind, event.info.arena.span) == ("unlinked", 4 * SIZE)


# --- what owners and clients write


@given(page=st.binary(max_size=128), entries=st.binary(max_size=3 * ENTRY_SIZE), rest=st.binary(max_size=64))
def test_names_of_any_arena_are_read_without_harm(page: bytes, entries: bytes, rest: bytes) -> None:
    descriptor = os.memfd_create("arena")
    try:
        fill(descriptor, {"front": b"1", LONG: b"2"})
        os.pwrite(descriptor, entries, 8192)
        os.pwrite(descriptor, rest, 4096 + 64)
        assert isinstance(list(values_in(descriptor)), list)
        os.pwrite(descriptor, page, 4096)
        with contextlib.suppress(BadRegion):
            assert isinstance(list(values_in(descriptor)), list)
    finally:
        os.close(descriptor)


@given(data=st.data())
def test_names_of_a_damaged_arena_are_right_or_missing(data: st.DataObject) -> None:
    descriptor = os.memfd_create("arena")
    try:
        fill(descriptor, VALUES)
        at = data.draw(st.integers(8192, 8192 + 3 * ENTRY_SIZE - 8))
        os.pwrite(descriptor, data.draw(st.binary(min_size=1, max_size=8)), at)
        size = os.fstat(descriptor).st_size
        for value in values_in(descriptor):
            assert 4096 <= value.block <= value.block + value.size <= size
    finally:
        os.close(descriptor)


def test_commands_say_so_when_an_arena_has_no_names_yet(host: WatchedHost, owner: ArenaPeer) -> None:
    owner.publish()  # an owner that never wrote the control page
    command = [sys.executable, "-m", "shmhost", "ls", "camera/", "--socket", host.socket_path]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert outcome.returncode == 1
    assert "the control page of the arena is not one" in " ".join(outcome.stderr.split())
    assert rows(host, "who", "camera/") == []


# --- with the owner and the reader of the library


def test_commands_read_what_the_library_writes(host: WatchedHost) -> None:
    """The layout that is read here is the one of `shm_arena_layout.h`."""
    with shmclient.connect(host.socket_path) as shm, shmclient.connect(host.socket_path) as other:
        with shm.arena("camera", size=1 << 20, max_size=1 << 21) as camera:
            camera["front"] = b"first"
            old = other.get("camera/front")
            camera["front"] = b"second value"
            camera[LONG] = bytes(1000)
            new = other.get(f"camera/{LONG}")
            camera["gone"] = b"x"
            del camera["gone"]
            shown = rows(host, "ls", "camera/")
            assert [(row["name"], row["size"]) for row in shown] == [
                (f"camera/{LONG}", 1000),
                ("camera/front", 12),
            ]
            arena = rows(host, "stat", "camera")["arena"]
            assert (arena["names"], arena["value_bytes"], arena["ledgers"]) == (2, 1012, 1)
            held = [row for row in rows(host, "who", "camera/") if "block" in row]
            assert [(row["name"], row["state"]) for row in held] == [
                ("camera/front", "superseded"),
                (f"camera/{LONG}", "current"),
            ]
            assert {row["pid"] for row in held} == {os.getpid()}
            assert all(abs(row["since_ns"] - time.time_ns()) < 60e9 for row in held)
            assert (bytes(old), len(new)) == (b"first", 1000)
            del old, new
            assert [row for row in rows(host, "who", "camera/") if "block" in row] == []
        shm.unlink("camera")
    gc.collect()  # the parts of a client are a cycle, and one of them has the event of its ledger


def test_structures_have_the_sizes_of_the_header() -> None:
    sizes = {
        "struct shm_arena_entry": ENTRY_SIZE,
        "struct shm_arena_record": arena_names.RECORD.size,
        "struct shm_ledger_hold": 16,
        "struct shm_ledger": 4096,
        "struct shm_arena_message": MESSAGE.size,
    }
    assert {name: ffi.sizeof(name) for name in sizes} == sizes
    control = "struct shm_arena_control"
    assert ffi.offsetof(control, "entry_count") == arena_names.CONTROL.size - 5 * 8
    assert [ffi.offsetof(control, name) for name in ("generation", "used", "names", "value_bytes")] == [
        64,
        72,
        80,
        88,
    ]
