"""Hosts of a fleet that differ: in the version of their messages, and in what their clocks say."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

import shmclient
from benchmarks.fleet_hosts import free_ports
from shmhost.fleet.messages import FORM
from shmprotocol.errors import HostError
from tests.fleet_support import start, statuses, write_plan
from tests.support import wait_until

pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")

SHARED = {"export": [""], "import": [""]}
HOURS = 3600
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
        typedef int (*function)(clockid_t, struct timespec *);
        function next = (function)dlsym(RTLD_NEXT, "clock_gettime");
        int result = next(clock, now);

        if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
                now->tv_sec += atol(getenv("CLOCK_SHIFT_S"));
        return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
        struct timespec precise;
        int result = clock_gettime(CLOCK_REALTIME, &precise);

        now->tv_sec = precise.tv_sec;
        now->tv_usec = precise.tv_nsec / 1000;
        return result;
}

time_t time(time_t *out)
{
        struct timespec now;

        clock_gettime(CLOCK_REALTIME, &now);
        if (out)
                *out = now.tv_sec;
        return now.tv_sec;
}
"""


def test_host_of_another_version_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process has the number of another form of messages."""
    ports = free_ports(2)
    (tmp_path / "sitecustomize.py").write_text("from shmhost.fleet import messages\nmessages.FORM += 1\n")
    with start(write_plan(tmp_path, "a", ports[0], (), **SHARED)) as host:
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        text = f"'a' speaks form {FORM} of the fleet's messages, and 'b' has {FORM + 1}"
        with pytest.raises(HostError, match=text):
            start(write_plan(tmp_path, "b", ports[1], ports[:1], **SHARED))
        with shmclient.connect(host.socket_path) as shm:
            shm.put("x", b"x").close()
        assert not any("Traceback" in line for line in host.log)


@pytest.mark.torture
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_clocks_that_differ_by_hours_make_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLOCK_REALTIME of each host is another one: a time namespace does not have it."""
    library = tmp_path / "clock.so"
    (tmp_path / "clock.c").write_text(CLOCK)
    compile_ = ["cc", "-shared", "-fPIC", "-O1", str(tmp_path / "clock.c"), "-o", str(library), "-ldl"]
    subprocess.run(compile_, check=True)
    ports = free_ports(3)
    plans = [
        write_plan(tmp_path, name, ports[number], ports[:number], **SHARED)
        for number, name in enumerate("abc")
    ]
    with ExitStack() as stack:
        hosts, clients = [], []
        for plan, shift in zip(plans, (5 * HOURS, -7 * HOURS, 0), strict=True):
            with monkeypatch.context() as context:
                context.setenv("LD_PRELOAD", str(library))
                context.setenv("CLOCK_SHIFT_S", str(shift))
                hosts.append(stack.enter_context(start(plan)))
            clients.append(stack.enter_context(shmclient.connect(hosts[-1].socket_path)))
        for number, shm in enumerate(clients):
            for value in range(5):
                shm.put(f"of {number}", bytes([value]) * 100_000).close()
        for number in range(3):
            times = set()
            for shm in clients:
                wait_until(lambda shm=shm, name=f"of {number}": shm.get(name, wait=60)[0] == 4, 60)
                assert bytes(shm.get(f"of {number}")) == b"\4" * 100_000
                times.add(shm.open(f"of {number}").header.created_ns)
            assert len(times) == 1  # that of its original
        clients[0].unlink("of 0")
        for shm in clients:
            wait_until(lambda shm=shm: "of 0" not in shm, 60)
        rows = statuses(plans[0])
        assert all(0 <= each["lag_s"] < 60 for row in rows for each in row["replicas"])
        assert len({row["slice"] for row in rows}) == 3
