"""Settings and policies that are nearly right: each is taken, or refused with a reason."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable

import pytest

from shmhost.core.peers import Peer
from shmhost.core.policy import Wish
from shmhost.settings.config import metrics_address, parse_window
from shmhost.settings.policies import parse_policy
from shmprotocol.errors import InvalidArgument

COUNT = 200_000 if os.environ.get("HYPOTHESIS_PROFILE") == "fuzz" else 2000
POLICY = """
# what users may do
[[names]]
title = "the teachers' models"
users = ["root", 1000]
groups = ["root"]
prefixes = ["models/"]
size = "8G"
seals = ["full"]
backends = ["memfd"]
kinds = ["region"]

[[names]]
prefixes = ["models/"]
allow = false

[[names]]

[[limits]]
users = [1000]
bytes = "2G"
regions = 10

[[limits]]
connections = 200
"""
PIECES = [
    "[[names]]",
    "[",
    "]]",
    "= ",
    '"',
    "'''",
    "\n",
    "-1",
    "1e400",
    "nan",
    "18446744073709551616",
    "true",
    "{}",
    "\\u0000",
]
PIECES += ["é", "\0", "{a = {}}", "2020-01-01", "0x", "prefix", "size", "users = [", '"9999999 TiB"', "#"]


def mutated(text: str, choose: random.Random) -> str:
    for _ in range(choose.randrange(1, 5)):
        at, kind = choose.randrange(len(text) + 1), choose.randrange(4)
        if kind == 0:
            text = text[:at] + choose.choice(PIECES) + text[at:]
        elif kind == 1:
            text = text[:at] + text[at + choose.randrange(1, 12) :]
        elif kind == 2:
            text = text[:at] + chr(choose.randrange(32, 127)) + text[at + 1 :]
        else:
            start = choose.randrange(len(text) + 1)
            text = text[:at] + text[start : start + choose.randrange(40)] + text[at:]
    return text


@pytest.mark.timeout(0)
def test_policy_that_is_nearly_right_is_taken_or_refused() -> None:
    choose, taken = random.Random(1), 0
    parse_policy(POLICY, "policy.toml", frozenset({0}))
    wish = Wish("models/a", "region", "full", "memfd", 100)
    for _ in range(COUNT):
        with contextlib.suppress(InvalidArgument):
            policy = parse_policy(mutated(POLICY, choose), "policy.toml", frozenset({0}))
            policy.refusal(wish, Peer(1000, 1000))
            taken += 1
    assert 0 < taken < COUNT


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_window, "0x550000000000:256GiB"),
        (metrics_address, "127.0.0.1:9100"),
        (metrics_address, "[::1]:9100"),
        (metrics_address, "/run/shmhost/metrics.sock"),
    ],
)
def test_setting_that_is_nearly_right_is_taken_or_refused(parse: Callable[[str], object], text: str) -> None:
    choose = random.Random(2)
    parse(text)
    for _ in range(COUNT):
        with contextlib.suppress(InvalidArgument):
            parse(mutated(text, choose))
