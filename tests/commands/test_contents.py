"""What `stat` says of the content of a region, and what `who` says of the program that holds it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import msgpack
import numpy as np
import pytest

import shmclient
from command_support import call
from shmhost.commands.views.contents import DEPTH_MAX, TEXT_MAX, content_of, unpack
from shmhost.commands.views.who import short_command
from support import WatchedHost


def run(host: WatchedHost, *arguments: str) -> str:
    result = call("shmhost", *arguments, environ={"SHMHOST_SOCKET": host.socket_path})
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


RECORD = np.dtype([("id", "<i4"), ("position", "<f8", (3,))])


@pytest.mark.parametrize(
    ("value", "content", "size"),
    [
        (b"12345", "bytes", 5),
        (memoryview(bytes(8)).cast("i"), "bytes, item i, shape (2,)", 8),
        (np.zeros((3, 4), "f4"), "ndarray <f4, shape (3, 4), order C", 48),
        (np.zeros(3, RECORD), "ndarray {id <i4, position <f8 (3,)}, shape (3,), order C", 84),
    ],
)
def test_stat_shows_dtype_shape_and_size(
    host: WatchedHost, shm: shmclient.Client, value: object, content: str, size: int
) -> None:
    shm.put("x", value).close()
    shown = dict(line.split(maxsplit=1) for line in run(host, "stat", "x").splitlines())
    assert shown["content"].rstrip() == content
    assert shown["size"].startswith(f"{size} bytes")


def test_stat_shows_the_content_of_a_value_in_an_arena(host: WatchedHost, shm: shmclient.Client) -> None:
    with shm.arena("camera", size=1 << 20) as camera:
        camera["front"] = np.zeros((4, 5), "u1")
        assert "ndarray |u1, shape (4, 5), order C" in run(host, "stat", "camera/front")
        assert json.loads(run(host, "stat", "camera/front", "--json"))["metadata"]["shape"] == [4, 5]
        assert "an arena" in run(host, "stat", "camera")


def test_stat_json_has_the_metadata(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("x", np.zeros((3, 4), "f4")).close()
    metadata = json.loads(run(host, "stat", "x", "--json"))["metadata"]
    assert (metadata["format"], metadata["dtype"], metadata["shape"]) == ("ndarray", "<f4", [3, 4])


def test_stat_opens_nothing_for_longer_than_it_runs(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("x", b"1").close()
    run(host, "stat", "x")
    shm.unlink("x")
    assert "x" not in run(host, "who")


def nested(depth: int) -> object:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": "ndarray", "dtype": {"fields": [1, None, {"name": []}]}, "shape": "x"},
        {"format": None, "dtype": [], "shape": {}},
        {"format": "\x1b[2J" * 100, "x": float("nan"), "y": b"\xff"},
        {"format": "x", "y": nested(300)},
        {"format": "ndarray", "shape": [2**63] * 1000},
        {b"format": 1},
    ],
)
def test_hostile_metadata_is_shown_without_harm(metadata: dict[object, object]) -> None:
    values = unpack(msgpack.packb(metadata))
    assert values is not None
    json.dumps(values, allow_nan=False)
    text = content_of(values)
    assert text.isprintable()
    assert len(text) <= TEXT_MAX


@pytest.mark.parametrize("packed", [b"\xff", b"\xc1", b"\x81", msgpack.packb([1]), b"\x91" * 5000])
def test_metadata_that_is_not_a_map_is_not_readable(packed: bytes) -> None:
    assert unpack(packed) is None
    assert "not readable" in content_of(None)


def test_nested_metadata_ends_somewhere() -> None:
    values = unpack(msgpack.packb({"x": nested(DEPTH_MAX + 10)}))
    assert "..." in json.dumps(values)


def test_stat_does_without_the_content_when_the_quota_has_no_room(
    host: WatchedHost, shm: shmclient.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise shmclient.QuotaExceeded("no lease is left")

    shm.put("x", b"1").close()
    monkeypatch.setattr("shmprotocol.wire.query.Query.metadata", refuse)
    assert "not readable" in run(host, "stat", "x")


def test_who_shows_the_command_line_of_a_holder(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("x", b"1").close()
    program = "import shmclient, sys; x = shmclient.connect().open('x'); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, "a word"]
    environ = os.environ | {"SHMHOST_SOCKET": host.socket_path}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environ, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        (row,) = json.loads(run(host, "who", "--json"))
        table = run(host, "who")
        child.communicate("")
    assert (row["pid"], row["command"]) == (child.pid, shlex.join(command))
    assert f"{os.path.basename(sys.executable)} -c impo" in table
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize(
    ("command", "name", "shown"),
    [
        ("/usr/bin/python3 /srv/app/train.py --epochs 3", "python3", "python3 train.py --epochs 3"),
        ("/usr/bin/python3 /usr/bin/gunicorn app", "gunicorn", "python3 gunicorn app"),
        ("python3 train.py", "trainer", "trainer: python3 train.py"),
        ("", "ended", "ended"),
        ("'/opt/a program/x'", "x", "x"),
        ("'not closed", "'not", "'not closed"),
        ("python3 " + "x" * 100, "python3", "python3 " + "x" * 31 + "…"),
        ("x '\x1b[2J'", "x", "x \ufffd[2J"),
    ],
)
def test_short_command_is_program_and_script(command: str, name: str, shown: str) -> None:
    assert short_command(command, name, 40) == shown
