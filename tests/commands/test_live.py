"""`shmhost top` against real hosts: once, as JSON, and live in a real terminal (tmux)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len

import shmclient
from shmhost.commands.top import feed as _feed
from shmhost.core.registry import REGION_OVERHEAD
from shmprotocol.errors import HostGone, HostTimeout
from support import WatchedHost, count_descriptors, serve, wait_until, watched_host
from terminal import Terminal, opened

PLAIN = {"", "0", "1", "2", "4", "7", "39", "49"}  # SGR codes that are no colour: bold, reverse, ...
COMMAND = [sys.executable, "-m", "shmhost", "top"]


# --- once


def shown_once(host: WatchedHost, shm: shmclient.Client, *arguments: str) -> str:
    """Return what a command prints while there is something to see."""
    command = [*COMMAND, "--socket", host.socket_path, "--interval", "0.3", *arguments]
    environment = os.environ | {"COLUMNS": "200"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment
    ) as child:
        while child.poll() is None:
            shm.put("busy", b"x").close()
            with contextlib.suppress(shmclient.RegionNotFound):
                shm.get("none")
        assert child.stdout is not None
        assert child.returncode == 0
        return child.stdout.read().decode()


def test_json_is_one_object_with_rates(host: WatchedHost, shm: shmclient.Client) -> None:
    held = [shm.put("quiet", bytes(1 << 20)), shm.open("quiet")]
    content = json.loads(shown_once(host, shm, "--json", "--sort", "size"))
    assert content["regions"][0]["name"] == "quiet"
    quiet, busy = (
        {region["name"]: region for region in content["regions"]}[name] for name in ("quiet", "busy")
    )
    assert (quiet["rate"], quiet["leases"], quiet["size"]) == (0.0, 2, 1 << 20)
    assert busy["rate"] > 1
    assert 0.5 < busy["rate"] / content["rates"]["put"] < 2
    assert content["rates"].keys() == content["mean_us"].keys() >= {"put", "open", "measure"}
    assert min(content["mean_us"].values()) > 0
    assert content["refusals"]["not-found"] > 1
    assert (content["socket"], content["clients"], content["restarts"]) == (host.socket_path, 2, 0)
    (user,) = content["users"]
    assert (user["uid"], user["clients"]) == (os.getuid(), 2)
    assert user["capacity"] + user["regions"] * REGION_OVERHEAD == content["used"]
    assert 0 < content["uptime_s"] < 60
    assert len(held) == 2


@pytest.mark.parametrize("flags", [["--once"], []])
def test_plain_view_has_80_columns_and_no_controls(
    flags: list[str], host: WatchedHost, shm: shmclient.Client
) -> None:
    for number in range(40):
        shm.put(f"long/{number:02}/" + "名" * 80, b"x").close()
    output = shown_once(host, shm, *flags)
    lines = output.splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert "\x1b" not in output
    assert len([line for line in lines if line.startswith("long/")]) == 40
    titles = ["shmhost", "memory", "requests", "refusals", "users"]
    assert [line.split()[0] for line in lines[:5]] == titles


def test_command_ends_with_3_when_there_is_no_host(tmp_path: Path) -> None:
    command = [*COMMAND, "--socket", str(tmp_path / "none.sock")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith("shmhost: no host at ")


@pytest.mark.parametrize("interval", ["0.09", "inf", "3601", "x"])
def test_command_takes_no_interval_that_is_too_short_or_too_long(interval: str) -> None:
    ended = subprocess.run([*COMMAND, "--interval", interval], capture_output=True, timeout=30)
    assert ended.returncode == 2


# --- samples


def test_feed_goes_on_with_the_next_host(tmp_path: Path) -> None:
    path = str(tmp_path / "h.sock")
    descriptors = count_descriptors()
    with _feed.Feed(path) as feed:
        with watched_host(path):
            first = feed.take()
            assert feed.take().measured.connections == first.measured.connections
        for _ in range(2):
            with pytest.raises(HostGone):
                feed.take()
        with watched_host(path):
            assert feed.take().measured.started_ns > first.measured.started_ns
    assert count_descriptors() == descriptors


def test_feed_says_that_a_stopped_host_gives_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmprotocol.wire.query.TIMEOUT_S", 0.2)
    child = serve(tmp_path / "h.sock")
    try:
        with _feed.Feed(str(tmp_path / "h.sock")) as feed:
            feed.take()
            child.send_signal(signal.SIGSTOP)
            with pytest.raises(HostTimeout):
                feed.take()
            child.send_signal(signal.SIGCONT)
    finally:
        child.kill()
        child.communicate()


# --- live


class LiveView(Terminal):
    """A terminal with something on its screen, in which `shmhost top` is run."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__(width, height)
        self.run("export LC_ALL=C.UTF-8; clear; echo earlier text; stty -g")
        self.until("earlier text\n", "\n$")
        self.mode = self.lines()[1]

    def names(self) -> list[str]:
        """Return the first words of the table."""
        lines = self.lines()
        header = next((index for index, line in enumerate(lines) if line.startswith("name")), len(lines))
        return [line.split()[0] for line in lines[header + 1 :] if " current " in line]

    def wait_for_names(self, *texts: str) -> None:
        wait_until(lambda: self.names() == list(texts), shown=self.screen)

    def ends_with(self, code: int) -> None:
        """Wait for the end of the command; the screen and the terminal's settings are as before then."""
        self.until("earlier text\n", f"code={code}\n")
        assert "restarts" not in self.screen()
        self.run("clear; stty -g")
        self.until(self.mode + "\n")
        assert self.tmux("display", "-p", "#{cursor_flag} #{alternate_on}").split() == ["1", "0"]


@pytest.fixture
def tmux() -> Iterator[LiveView]:
    with opened(kind=LiveView) as view:
        yield view


def start(tmux: LiveView, path: str, *arguments: str, shown: str = "/s ") -> None:
    command = [*COMMAND, "--socket", path, "--interval", "0.2", *arguments]
    tmux.run(f"{shlex.join(command)}; echo code=$?")
    tmux.until("shmhost top", shown)  # by default what the second sample brings


@pytest.fixture
def regions(shm: shmclient.Client) -> Iterator[None]:
    """Three regions, in another order by size, leases and generation each."""
    for _ in range(3):
        shm.put("b-two", b"x").close()
    for _ in range(2):
        shm.put("a-one", bytes(5000)).close()
    shm.put("c-three", bytes(2000)).close()
    held = [shm.open(name) for name in ("c-three", "c-three", "b-two")]
    yield
    for region in held:
        region.close()


def test_live_view_sorts_at_keys_and_ends_at_q(host: WatchedHost, regions: None, tmux: LiveView) -> None:
    start(tmux, host.socket_path)
    tmux.wait_for_names("a-one", "b-two", "c-three")
    assert "earlier text" not in tmux.screen()
    assert tmux.tmux("display", "-p", "#{cursor_flag} #{alternate_on}").split() == ["0", "1"]
    for key, title, order in [
        ("n", "name ▼", "cba"),
        ("s", "size ▼", "acb"),
        ("s", "size ▲", "bca"),
        ("l", "leases ▼", "cba"),
        ("g", "gen ▼", "bac"),
        ("g", "gen ▲", "cab"),
        ("t", "rate ▼", "abc"),
    ]:
        tmux.type(key)
        tmux.until(title)
        assert "".join(name[0] for name in tmux.names()) == order
    tmux.type("q")
    tmux.ends_with(0)


def test_live_view_follows_what_happens(host: WatchedHost, shm: shmclient.Client, tmux: LiveView) -> None:
    start(tmux, host.socket_path, "--sort", "rate")
    tmux.until("no regions")
    shm.put("a-quiet", b"x").close()

    def is_first() -> bool:
        shm.put("z-busy", b"x").close()
        return tmux.names() == ["z-busy", "a-quiet"]

    wait_until(is_first, shown=tmux.screen)
    tmux.type("Escape")
    tmux.ends_with(0)


def test_live_view_says_which_keys_there_are_and_ignores_others(
    host: WatchedHost, regions: None, tmux: LiveView
) -> None:
    start(tmux, host.socket_path)
    assert tmux.lines()[23].split() == [
        *("n", "name", "s", "size", "l", "leases", "g", "generation", "t", "rate", "/", "filter", "q", "quit")
    ]
    tmux.type("F5", "C-z", "x", "M-q", "C-p", "Tab", "s")
    tmux.until("size ▼")
    tmux.type("C-c")
    tmux.ends_with(0)


def test_live_view_filters_and_scrolls(host: WatchedHost, shm: shmclient.Client, tmux: LiveView) -> None:
    for number in range(40):
        shm.put(f"r{number:02}", b"x").close()
    start(tmux, host.socket_path)
    tmux.type("End")
    tmux.until("r39")
    assert tmux.names()[-1] == "r39"
    assert "r00" not in tmux.names()
    tmux.type("/", "9")
    tmux.wait_for_names("r09", "r19", "r29", "r39")
    tmux.until("9: 4 of 40 regions")
    tmux.type("Enter", "n")
    tmux.wait_for_names("r39", "r29", "r19", "r09")
    tmux.type("Escape", "Home")
    tmux.until("r38")
    tmux.type("Escape")
    tmux.ends_with(0)


@pytest.mark.parametrize("colours", [True, False])
def test_live_view_has_the_colours_of_the_terminal_or_none(
    colours: bool, host: WatchedHost, regions: None, tmux: LiveView
) -> None:
    tmux.run("export NO_COLOR=1" if not colours else "unset NO_COLOR")
    start(tmux, host.socket_path)
    tmux.until("a-one")
    escapes = re.findall(r"\x1b\[([\d;]*)m", tmux.tmux("capture-pane", "-p", "-e"))
    codes = {code for escape in escapes for code in escape.split(";")}
    assert codes & {"30", "31", "32", "33", "34", "35", "36", "37"} if colours else not codes - PLAIN
    assert "38" not in codes  # of a palette that the terminal has not chosen
    tmux.type("q")
    tmux.ends_with(0)


def test_live_view_fits_a_terminal_that_changes_its_size(
    host: WatchedHost, shm: shmclient.Client, tmux: LiveView
) -> None:
    for number in range(40):
        shm.put(f"r{number:02}/" + "名" * 30, b"x").close()
    tmux.run("export COLUMNS=80 LINES=24")  # what some shells and runners export is stale at once
    start(tmux, host.socket_path, "--interval", "3600", shown="next sample")  # drawn for the size alone
    for width, height, count in [(40, 10, 5), (120, 30, 24), (20, 3, 1), (80, 24, 18)]:
        tmux.tmux("resize-window", "-x", str(width), "-y", str(height))
        cells = [width - 1] * count  # not 80, cut off: the last column is the scroll bar's
        wait_until(
            lambda cells=cells: [cell_len(line) for line in regions_of(tmux)] == cells, shown=tmux.screen
        )
        assert len(tmux.lines()) == height
    tmux.type("q")
    tmux.ends_with(0)


def regions_of(tmux: LiveView) -> list[str]:
    lines = [line.rstrip(" ▁▂▃▄▅▆▇█") for line in tmux.lines()]  # without the scroll bar
    return [line for line in lines if line.startswith("r") and line[1:3].isdigit()]


def test_live_view_waits_for_a_host_that_is_gone(tmp_path: Path, tmux: LiveView) -> None:
    path = tmp_path / "h.sock"
    hosts = [serve(path)]
    try:
        with shmclient.connect(str(path)) as shm:
            shm.put("kept", b"x").close()
        start(tmux, str(path))
        tmux.wait_for_names("kept")
        hosts[0].kill()
        tmux.until("no host: waiting for it", "kept", "restarts 0")
        tmux.type("s")
        tmux.until("size ▼")
        hosts.append(serve(path))
        tmux.until("restarts 1", "no regions", "/s ")
        assert "no host" not in tmux.screen()
        tmux.type("q")
        tmux.ends_with(0)
    finally:
        for host in hosts:
            host.kill()
            host.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_live_view_puts_the_terminal_back_at_a_signal(
    number: signal.Signals, host: WatchedHost, tmux: LiveView, tmp_path: Path
) -> None:
    command = shlex.join([*COMMAND, "--socket", host.socket_path, "--interval", "0.2"])
    tmux.run(f"sh -c 'echo $$ > {tmp_path}/pid; exec {command}'; echo code=$?")
    tmux.until("shmhost top", "/s ")
    os.kill(int((tmp_path / "pid").read_text()), number)
    tmux.ends_with(0)


def test_live_view_puts_the_terminal_back_after_a_fault(
    host: WatchedHost, tmux: LiveView, tmp_path: Path
) -> None:
    (tmp_path / "fault.py").write_text(
        "import sys\nfrom shmhost.commands.top import app, live\n"
        "def choose(state, key): raise ZeroDivisionError('a fault')\n"
        "app.choose = choose\n"
        "live.run(sys.argv[1], 0.2, 'name', as_json=False, once=False)\n"
    )
    command = shlex.join([sys.executable, str(tmp_path / "fault.py"), host.socket_path])
    tmux.run(f"{command}; echo code=$?")
    tmux.until("shmhost top", "/s ")
    tmux.type("s")
    tmux.until("ZeroDivisionError: a fault\n", "code=1")
    assert tmux.tmux("display", "-p", "#{cursor_flag} #{alternate_on}").split() == ["1", "0"]


def test_live_view_says_what_to_install_without_textual(host: WatchedHost, tmux: LiveView) -> None:
    code = "import sys; sys.modules['textual'] = None; import shmhost.__main__ as m; m.main()"
    tmux.run("clear; " + shlex.join([sys.executable, "-c", code, "top", "--socket", host.socket_path]))
    tmux.until("shmhost: the live view needs textual: pip install 'shmhost[cli]', or use --once")
    once = [sys.executable, "-c", code, "top", "--once", "--interval", "0.1", "--socket", host.socket_path]
    assert subprocess.run(once, capture_output=True, timeout=30).returncode == 0


def test_live_view_ends_with_its_terminal(host: WatchedHost, tmux: LiveView, tmp_path: Path) -> None:
    command = shlex.join([*COMMAND, "--socket", host.socket_path, "--interval", "0.2"])
    tmux.run(f"sh -c 'echo $$ > {tmp_path}/pid; exec {command}'")
    tmux.until("shmhost top", "/s ")
    process = Path("/proc") / (tmp_path / "pid").read_text().strip()
    assert process.exists()
    tmux.tmux("new-window", "sh")  # the server stays
    tmux.tmux("kill-window", "-t", "0")
    wait_until(lambda: host.counts()["links"] == 0)
    wait_until(lambda: not process.exists())
