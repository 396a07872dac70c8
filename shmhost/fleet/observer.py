"""Looks at a fleet from outside: asks its hosts, and is none. Waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from shmhost.fleet.config import FleetConfig
from shmhost.fleet.engine import INTRODUCTION_S, text_of
from shmhost.fleet.zenoh_settings import settings_of, zenoh_module
from shmprotocol.errors import HostError

Answers = dict[str, bytes | str]


def observe(
    plan: FleetConfig,
    question: bytes,
    timeout_s: float,
    named: Callable[[Answers], set[str]] = lambda _: set(),
) -> Answers:
    """Ask all hosts of a fleet without being one; return their answers by address, a text for a failure.

    `named` returns the addresses in answers: links to those come up a moment after those of the file. Waits.
    HostError: no host can be reached.
    """
    zenoh = zenoh_module()
    try:
        with zenoh.open(settings_of(zenoh, plan, is_observer=True)) as session:
            answers = _answers(session, plan, question, timeout_s, named)
    except zenoh.ZError as error:
        raise HostError(f"the fleet {plan.fleet!r} cannot be reached: {error}") from None
    return dict.fromkeys(named(answers), "others see it, and it cannot be reached from here") | answers


def _answers(
    session: Any, plan: FleetConfig, question: bytes, timeout_s: float, named: Callable[[Answers], set[str]]
) -> Answers:
    """Ask each host as its link comes up, until all that the answers name have been asked, or for 3 s."""
    prefix = f"shmhost/{plan.fleet}"
    answers: Answers = {}
    present: dict[str, str] = {}  # names by addresses
    arrived = threading.Event()

    def lives(sample: Any) -> None:
        *_, name, address = str(sample.key_expr).split("/")
        present[address] = name
        arrived.set()

    hosts = session.liveliness().declare_subscriber(f"{prefix}/live/*/*", lives, history=True)
    if not arrived.wait(timeout_s):
        raise HostError(f"no host of the fleet answers within {timeout_s:g} s: is `shmhost serve` up?")
    end_s = time.monotonic() + INTRODUCTION_S
    while time.monotonic() < end_s and (not answers or named(answers) - answers.keys()):
        new = [address for address in sorted(present) if address not in answers]
        keys = [f"{prefix}/ask/{present[address]}/{address}/{plan.name}" for address in new]
        waiting = [session.get(key, payload=question, timeout=timeout_s) for key in keys]
        answers |= dict(zip(new, map(_observed, waiting), strict=True))
        time.sleep(0.02)
    hosts.undeclare()
    return answers


def _observed(handler: Any) -> bytes | str:
    answer: bytes | str = "does not answer"
    for reply in handler:
        if reply.ok is not None:
            answer = reply.ok.payload.to_bytes()
        elif reply.err is not None:
            answer = text_of(reply.err)
    return answer
