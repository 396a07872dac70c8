"""A process that uses one peer: reads commands from its input, runs steps, and answers with a line of JSON.

It ends when its input does, and gives back what it made. Ctrl-C is for the runner alone.
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import sys
import traceback
from typing import Any

from benchmarks.machine import raise_descriptor_limit
from benchmarks.peers.base import Absent, Site, Unsupported
from benchmarks.peers.registry import load
from benchmarks.peers.steps import INPUT, Steps


def main() -> int:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_descriptor_limit()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a peer may print
    key, folder, prefix, server_cpu = sys.argv[1:5]
    peer, site = load(key), Site(folder, prefix, int(server_cpu))

    def reply(**answer: Any) -> None:
        replies.write(json.dumps(answer) + "\n")
        replies.flush()

    try:
        version = peer.version()
        steps = Steps(lambda: peer.connect(site))
    except (Absent, ImportError) as error:
        reply(absent=str(error))
        return 0
    reply(ok=version)
    try:
        with open(INPUT, "rb", buffering=0, closefd=False) as commands:  # steps look for the next one too
            while line := commands.readline():
                _answer(steps, json.loads(line), reply)
    finally:
        steps.close()
    return 0


def _answer(steps: Steps, command: dict[str, Any], reply: Any) -> None:
    """Run one step; an error is an answer too, because the other peers can go on."""
    step = getattr(steps, command.pop("step"))
    if "ready" in inspect.signature(step).parameters:
        command["ready"] = lambda: reply(ready=True)
    try:
        reply(ok=step(**command))
    except Unsupported as reason:
        reply(unsupported=str(reason))
    except Exception as error:
        traceback.print_exc()
        reply(failed=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(main())
