"""What each user has of a host, and may have: in `who --users`, in `top`, and in the metrics' source."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from rich.console import Console

import shmclient
from shmhost.commands.views.users import NO_LIMIT, fullest, user_rows, user_table
from shmhost.core.accounts import Accounts
from shmhost.core.hub import MAX_USES, uses_of
from shmhost.core.peers import Peer
from shmhost.core.resources import Totals
from shmprotocol.wire import messages as m
from support import WatchedHost

KIB = 1024


def test_user_has_what_was_taken_and_may_have_what_others_leave(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    shm.put("a", b"x").close()
    with shm.open("a"):
        command = [sys.executable, "-m", "shmhost", "who", "--users", "--json", "--socket", host.socket_path]
        rows = json.loads(subprocess.check_output(command, text=True, timeout=30))
    (row,) = rows
    assert (row["uid"], row["leases"]["used"], row["connections"]["used"]) == (os.getuid(), 1, 2)
    assert row["regions"] == {"used": 1, "most": None}
    assert row["bytes"]["used"] == host.host.registry.accounts.bytes.used
    assert row["bytes"]["most"] == host.host.registry.accounts.bytes.total


def test_most_is_what_a_user_gets_and_no_more() -> None:
    accounts = Accounts(Totals(64 * 100))
    for uid in (1000, 1001):
        accounts.of(uid).connect(Peer(uid, uid))
    accounts.of(1000).charge(1)
    most = {use.uid: use.most for use in uses_of(accounts) if use.resource == "bytes"}[1000]
    accounts.of(1000).charge(most - 1)
    assert not accounts.of(1000).bytes.fits(1)
    accounts.of(1001).bytes.restrict(50, "a rule")
    assert accounts.of(1001).bytes.most() == 50


def test_uses_are_bounded_and_those_with_the_most_bytes_come_first() -> None:
    accounts = Accounts(Totals(1 << 40))
    for uid in range(1000, 1000 + MAX_USES):
        accounts.of(uid).connect(Peer(uid, uid))
        accounts.of(uid).charge(uid)
    uses = uses_of(accounts)
    assert len(uses) == MAX_USES
    assert uses[0].uid == 999 + MAX_USES


def use(resource: str, used: int, most: int = NO_LIMIT, uid: int = 4_000_000_000) -> m.Use:
    return m.Use(uid, resource, used, most)


@pytest.mark.parametrize(
    ("uses", "text"),
    [
        ([], ""),
        ([use("bytes", 0, 10)], ""),
        ([use("bytes", 1, 10), use("leases", 2, 10), use("regions", 1000)], "leases 20%"),
        ([use("bytes", 10, 10)], "bytes 100%"),
        ([use("bytes", 1, 0)], "bytes 100%"),
    ],
)
def test_fullest_is_the_resource_with_the_least_left(uses: list[m.Use], text: str) -> None:
    assert fullest(uses) == text


def test_table_fits_80_columns_with_large_numbers() -> None:
    names = ("bytes", "regions", "leases", "connections", "descriptors", "lines", "watches", "addresses")
    uses = [use(name, 999_999, 1_000_000) for name in names] + [use("bytes", 5 * KIB, 10 * KIB, 1)]
    console = Console(width=80)
    with console.capture() as capture:
        console.print(user_table(uses))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert "4000000000" in lines[3]
    assert "5.0 KiB" in lines[4]
    assert lines[4].rstrip().endswith("bytes 50%")
    assert [row["uid"] for row in user_rows(uses)] == [4_000_000_000, 1]
