"""Who holds what, and what lies where: asked of a real host, and shown in 80 columns."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import shmclient
from shmhost.commands.views.who import Process, process_of
from shmhost.core.inspecting import MAX_HOLDERS
from shmprotocol.errors import HostGone, HostTimeout, RemoteProtocolError
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.query import Query
from support import RawPeer, WatchedHost, in_child

BASE, SIZE = 0x550000000000, 256 << 30
MIB = 1 << 20


def run(host: WatchedHost, *arguments: str) -> str:
    command = [sys.executable, "-m", "shmhost", *arguments, "--socket", host.socket_path]
    environment = os.environ | {"COLUMNS": "80"}
    return subprocess.check_output(command, env=environment, text=True, timeout=30)


def test_who_names_each_holder_of_each_living_generation(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("models/a", b"the first").close()
    old = shm.get("models/a")
    shm.put("models/a", b"the second").close()
    shm.put("other", b"x").close()
    held = shm.open("models/a")
    rows = json.loads(run(host, "who", "models/", "--json"))
    shown = [(row["name"], row["generation"], row["state"], row.get("pid")) for row in rows]
    own = os.getpid()
    assert shown == [("models/a", 1, "superseded", own), ("models/a", 2, "current", own)]
    comm = Path("/proc/self/comm").read_text().strip()
    assert [(row["uid"], row["process"], row["container"]) for row in rows] == [(os.getuid(), comm, "")] * 2
    assert bytes(old) == b"the first"
    held.close()


def test_who_shows_what_nobody_holds(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("alone", b"x").close()
    output = run(host, "who")
    assert "alone" in output
    assert "nobody" in output


def test_who_fits_80_columns_with_long_names(host: WatchedHost, shm: shmclient.Client) -> None:
    regions = [shm.put("long/" * 40 + str(number), b"x") for number in range(3)]
    lines = run(host, "who").splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("0 s" in line or " s" in line for line in lines) >= 3
    assert len(regions) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_inspection_shows_only_what_the_peer_may_read(host: WatchedHost, shm: shmclient.Client) -> None:
    os.chmod(host.socket_path, 0o666)
    os.chmod(Path(host.socket_path).parent, 0o755)
    for folder in Path(host.socket_path).parents[1:4]:
        os.chmod(folder, os.stat(folder).st_mode | 0o755)
    shm.put("secret", b"x", mode=0o600).close()
    shm.put("open", b"x", mode=0o644).close()

    def other() -> None:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        with Query(host.socket_path) as query:
            assert [item.info.name for item in query.inspect("")] == ["open"]

    assert in_child(other) == 0


def test_inspection_comes_in_pages_when_there_are_many(host: WatchedHost, shm: shmclient.Client) -> None:
    regions = [shm.put(f"r/{number:04}", b"x") for number in range(600)]
    with Query(host.socket_path) as query:
        items = list(query.inspect("r/"))
    assert [item.info.name for item in items] == [region.name for region in regions]
    assert all(len(item.holders) == 1 for item in items)
    for region in regions:
        region.close()


def test_inspection_has_a_bounded_number_of_holders(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("many", b"x").close()
    shm.put("next", b"x").close()
    with RawPeer(host.socket_path) as peer:
        for number in range(0, MAX_HOLDERS + 10, 50):
            _, fds = peer.ask(m.Open(number + 2, ("many",) * 50, (), False))
            for fd in fds:
                os.close(fd)
        with Query(host.socket_path) as query:
            many, after = list(query.inspect(""))
    assert (len(many.holders), many.info.leases >= MAX_HOLDERS + 10) == (MAX_HOLDERS, True)
    assert after.info.name == "next"


@pytest.mark.parametrize(
    ("group", "container"),
    [
        ("0::/system.slice/docker-" + "ab12" * 16 + ".scope\n", "ab12ab12ab12"),
        ("0::/docker/" + "0123456789abcdef" * 4 + "\n", "0123456789ab"),
        ("0::/kubepods.slice/cri-containerd-" + "c0de" * 16 + ".scope", "c0dec0dec0de"),
        ("0::/user.slice/user-0.slice\n", ""),
        ("", ""),
    ],
)
def test_container_is_read_from_the_cgroup(group: str, container: str, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "comm").write_text("reader\n")
    (tmp_path / "7" / "cgroup").write_text(group)
    (tmp_path / "7" / "cmdline").write_bytes(b"/usr/bin/reader\0a b\0")
    assert process_of(7, tmp_path) == Process("reader", container, "/usr/bin/reader 'a b'")
    assert process_of(8, tmp_path) == Process("", "")


def test_map_command_shows_all_generations(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("a", bytes(MIB)).close()
    old = shm.get("a")
    shm.put("a", bytes(5 * MIB)).close()
    output = run(host, "map")
    assert max(map(len, output.splitlines())) <= 80
    assert "superseded" in output
    assert output.count(" gen ") == 2
    assert output.count("end of the window") == 2
    parsed = json.loads(run(host, "map", "--json"))
    assert parsed["windows"][0] == [BASE, SIZE]
    assert [region["generation"] for region in parsed["regions"]] == [1, 2]
    assert len(old) == MIB


def test_map_picture_is_an_svg_of_all_regions(
    host: WatchedHost, shm: shmclient.Client, tmp_path: Path
) -> None:
    shm.put("a<&>b", bytes(MIB)).close()
    shm.put("large", bytes(9 * MIB)).close()
    run(host, "map", "--svg", str(tmp_path / "window.svg"))
    root = ElementTree.parse(tmp_path / "window.svg").getroot()
    name = "{http://www.w3.org/2000/svg}"
    widths = [float(bar.get("width", 0)) for bar in root.iter(f"{name}rect") if bar.get("rx")]
    texts = " ".join(text.text or "" for text in root.iter(f"{name}text"))
    assert len(widths) == 2
    assert widths[1] > widths[0] * 2
    assert "a<&>b" in texts
    assert f"{shm.stat('large').address:#x}" in texts


def test_process_that_calls_itself_markup_is_shown_as_it_is(host: WatchedHost) -> None:
    def hold(name: bytes) -> None:
        ctypes.CDLL(None).prctl(15, name, 0, 0, 0)  # PR_SET_NAME
        with shmclient.connect(host.socket_path) as other:
            held = other.put("held", b"1")
            output = run(host, "who")
            assert "[/x]" in output or "\ufffd[2J" in output
            assert "\x1b" not in output
            held.close()

    assert in_child(lambda: hold(b"[/x]")) == 0
    assert in_child(lambda: hold(b"\x1b[2J")) == 0


@pytest.mark.parametrize("command", [["ls"], ["who"], ["map"], ["stat", "a[/x]\u202eb"], ["top", "--once"]])
def test_names_do_not_reach_the_terminal_as_orders(
    command: list[str], host: WatchedHost, shm: shmclient.Client
) -> None:
    shm.put("a[/x]\u202eb", b"1").close()
    output = run(host, *command)
    assert "a[/x]\ufffdb" in output


def answering(path: Path, *replies: m.Message) -> threading.Thread:
    """Be a host that says these things, one for each request, and then nothing more."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer() -> None:
        with listener, listener.accept()[0] as peer:
            for reply in replies:
                peer.recv(4096)
                peer.sendall(pack(reply))
            peer.recv(4096)
            peer.settimeout(30)
            peer.recv(4096)

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


WELCOME = m.Welcome(1, m.VERSION, "fake", ((BASE, SIZE),), 0)


def test_host_that_stops_answering_is_told_from_one_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmprotocol.wire.query.TIMEOUT_S", 0.2)
    thread = answering(tmp_path / "h.sock", WELCOME)
    with pytest.raises(HostTimeout, match="did not answer"), Query(str(tmp_path / "h.sock")) as query:
        query.stat("x")
    thread.join(30)
    with pytest.raises(HostGone, match="shmhost serve"), Query(str(tmp_path / "none.sock")):
        pass


def test_reply_of_another_kind_is_an_error_of_the_protocol(tmp_path: Path) -> None:
    thread = answering(tmp_path / "h.sock", WELCOME, m.Done(2))
    wrong = pytest.raises(RemoteProtocolError, match="Done arrived instead of Described")
    with wrong, Query(str(tmp_path / "h.sock")) as query:
        query.stat("x")
    thread.join(30)
