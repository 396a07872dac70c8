"""What `doctor` finds: on this machine with a real host, and in made-up /proc and /sys trees."""

from __future__ import annotations

import errno
import json
import mmap
import os
import resource
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from shmhost.commands.doctor import judge
from shmhost.commands.doctor import measure as doctor
from shmhost.machine.kernel import memory_limits
from shmhost.settings.config import GIB, Config
from shmprotocol.kernel import address_space
from support import WatchedHost, count_descriptors, in_child, needs_root, wait_until

# Windows that no other test uses, outside of the default ones: those can still be reserved in a long run.
WINDOWS = ((0x500000000000, GIB), (0x501000000000, GIB))
MIB = 1 << 20
UNLIMITED = 9223372036854771712  # what cgroup version 1 says without a limit
TOPICS = [
    "kernel",
    "memfd",
    "seals",
    "memfd policy",
    "peer death",
    "fixed addresses",
    "open files",
    "address space",
    "locked memory",
    "mappings",
    "memory",
    "container",
    "huge pages",
    "overcommit",
    "window",
    "window",
    "socket",
    "socket folder",
]


def settings(path: Path | str, **values: object) -> Config:
    given: dict[str, Any] = {"socket_path": str(path), "windows": WINDOWS, "budget": 64 * MIB}
    return Config(**given | values)


def find(topic: str, findings: list[doctor.Finding]) -> doctor.Finding:
    """Return the finding of a topic: the first of several."""
    return next(finding for finding in findings if finding.topic == topic)


def write(root: Path, **files: str | bytes) -> Path:
    """Write files, named with __ for /, below a folder."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root as that of a good machine without cgroups."""
    return write(
        tmp_path / "root",
        proc__self__cgroup="0::/\n",
        proc__self__maps="00400000-00452000 r-xp 00000000 08:02 173521 /usr/bin/prog\n",
        proc__self__statm="1000 500 100 1 0 200 0\n",
        proc__meminfo="MemTotal:       16777216 kB\nMemFree: 1 kB\n",
        proc__sys__vm__memfd_noexec="0\n",
        proc__sys__vm__max_map_count="65530\n",
        proc__sys__vm__overcommit_memory="0\n",
        sys__kernel__mm__transparent_hugepage__shmem_enabled="always within_size [advise] never deny force\n",
    )


def as_nobody() -> None:
    os.setgroups([777])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)


def open_folders(path: str) -> None:
    """Let others reach a socket in pytest's private folders."""
    for folder in list(Path(path).parents)[:4]:
        folder.chmod(folder.stat().st_mode | 0o755)  # one of them is /tmp: others write there


# --- this machine


def test_examine_reports_each_topic_in_a_fixed_order(tmp_path: Path) -> None:
    findings = doctor.examine(settings(tmp_path / "host.sock"))
    assert [finding.topic for finding in findings] == TOPICS
    assert {finding.state for finding in findings} <= {"ok", "note", "problem"}
    assert all(finding.found for finding in findings)
    assert all(bool(finding.advice) == (finding.state != "ok") for finding in findings)


def test_this_machine_has_what_the_other_tests_rely_on(tmp_path: Path) -> None:
    findings = doctor.examine(settings(tmp_path / "host.sock"))
    states = {finding.topic: finding.state for finding in findings}
    needed = ("kernel", "seals", "fixed addresses", "window")
    assert {topic: states[topic] for topic in needed} == dict.fromkeys(needed, "ok")
    assert states["memfd"] in ("ok", "note")
    assert doctor.is_healthy(finding for finding in findings if finding.topic in needed)


def test_peer_death_is_ok_where_the_kernel_has_it(tmp_path: Path) -> None:
    version = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
    found = find("peer death", doctor.examine(settings(tmp_path / "host.sock")))
    assert found.state == ("ok" if version >= (6, 5) else "note")


def test_host_answers_when_one_serves_the_socket(host: WatchedHost) -> None:
    found = find("socket", doctor.examine(Config(socket_path=host.socket_path)))
    assert (found.state, found.advice) == ("ok", "")
    assert f"a host answers at {host.socket_path} (srw-rw----, uid {os.getuid()}" in found.found


def test_other_windows_of_the_host_are_noted(host: WatchedHost) -> None:
    found = find("socket", doctor.examine(settings(host.socket_path)))
    assert found.state == "note"
    assert "a host answers" in found.found
    assert "windows other than" in found.found


def test_nothing_is_left_open_or_mapped(host: WatchedHost) -> None:
    doctor.examine(settings(host.socket_path))  # what is loaded at first use stays
    wait_until(lambda: host.counts()["links"] == 0)
    before = host.counts()
    for _ in range(3):
        doctor.examine(settings(host.socket_path))
    wait_until(lambda: host.counts() == before)  # the host's side closes a little later
    maps = Path("/proc/self/maps").read_text()
    assert [judge.occupants(maps, base, size) for base, size in WINDOWS] == [[], []]
    assert "shmhost:doctor" not in maps


def test_no_descriptor_is_left_when_nobody_serves(tmp_path: Path) -> None:
    before = count_descriptors()
    for _ in range(3):
        doctor.examine(settings(tmp_path / "host.sock"))
    assert count_descriptors() == before


def run_doctor(*arguments: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shmhost", "doctor", *arguments]
    environment = os.environ | {"COLUMNS": str(columns)}
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)


def test_command_shows_what_was_found_and_ends_by_it(host: WatchedHost, tmp_path: Path) -> None:
    healthy = run_doctor(
        "--socket", host.socket_path, "--window", "0x500000000000:1G", "--budget", "64M", "--json"
    )
    findings = json.loads(healthy.stdout)
    problems = [finding for finding in findings if finding["state"] == "problem"]
    assert healthy.returncode == (1 if problems else 0)
    assert problems == []  # or this machine cannot run the other tests either
    (tmp_path / "file.sock").write_text("no socket")
    bad = run_doctor("--socket", str(tmp_path / "file.sock"))
    assert (bad.returncode, bad.stderr) == (1, "")
    assert "is not a socket" in " ".join(bad.stdout.split())
    assert max(map(len, bad.stdout.splitlines())) <= 80


# --- limits of this process, lowered in a child


def lowered(limit: int, soft: int, config: Config, topic: str) -> doctor.Finding:
    _, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (soft, hard))
    return find(topic, doctor.examine(config))


def test_few_open_files_are_a_problem(tmp_path: Path) -> None:
    config = settings(tmp_path / "host.sock")

    def child() -> None:
        assert lowered(resource.RLIMIT_NOFILE, 4095, config, "open files").state == "note"
        found = lowered(resource.RLIMIT_NOFILE, 255, config, "open files")
        assert found.state == "problem"
        assert "RLIMIT_NOFILE is 255" in found.found
        assert "ulimit -n" in found.advice

    assert in_child(child) == 0


def test_limited_addresses_are_noted_and_the_window_cannot_be_reserved(tmp_path: Path) -> None:
    config = settings(tmp_path / "host.sock", windows=((WINDOWS[0][0], 4096 * GIB // 4),))

    def child() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        found = lowered(resource.RLIMIT_AS, used + 512 * MIB, config, "address space")
        assert found.state == "note"
        assert "ulimit -v" in found.advice
        window = find("window", doctor.examine(config))
        assert window.state == "note"
        assert "each region is mapped on its own" in window.found
        assert lowered(resource.RLIMIT_AS, used + 128 * MIB, config, "address space").state == "problem"

    assert in_child(child) == 0


def test_window_is_a_problem_when_something_lies_in_it(tmp_path: Path) -> None:
    base, _ = WINDOWS[0]
    config = settings(tmp_path / "host.sock")

    def child() -> None:
        assert address_space.reserve(base + 5 * MIB, 4096)
        found = find("window", doctor.examine(config))
        assert found.state == "problem"
        assert f"anonymous memory (---p) at {base + 5 * MIB:#x}-{base + 5 * MIB + 4096:#x}" in found.found
        assert "--window" in found.advice
        assert address_space.mapping_at(base + 5 * MIB) is not None  # it was not replaced, and not unmapped

    assert in_child(child) == 0


def test_window_is_a_problem_when_what_lies_in_it_is_not_listed(tree: Path, tmp_path: Path) -> None:
    def child() -> None:
        assert address_space.reserve(WINDOWS[0][0], 4096)
        found = find("window", doctor.examine(settings(tmp_path / "host.sock"), tree))
        assert found.state == "problem"
        assert "an unknown mapping" in found.found

    assert in_child(child) == 0


def test_only_the_window_that_is_taken_is_a_problem(tmp_path: Path) -> None:
    def child() -> None:
        assert address_space.reserve(WINDOWS[1][0], 4096)
        findings = doctor.examine(settings(tmp_path / "host.sock"))
        assert [finding.state for finding in findings if finding.topic == "window"] == ["ok", "problem"]

    assert in_child(child) == 0


# --- the socket


def stale_socket(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    return str(path)


def test_missing_socket_is_a_note_that_says_how_to_start(tmp_path: Path) -> None:
    found = find("socket", doctor.examine(settings(tmp_path / "host.sock")))
    assert found.state == "note"
    assert found.found == f"no host: there is no {tmp_path / 'host.sock'}"
    assert "shmhost serve" in found.advice


def test_stale_socket_is_a_problem(tmp_path: Path) -> None:
    path = stale_socket(tmp_path / "host.sock")
    found = find("socket", doctor.examine(settings(path)))
    assert found.state == "problem"
    assert found.found == f"stale socket: no host listens at {path}"


def test_file_in_place_of_the_socket_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "host.sock").write_text("not a socket")
    found = find("socket", doctor.examine(settings(tmp_path / "host.sock")))
    assert found.state == "problem"
    assert "is not a socket: -rw" in found.found


@pytest.mark.parametrize(("length", "state"), [(107, "note"), (108, "problem")])
def test_path_is_too_long_from_108_bytes_on(length: int, state: str, tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    path += "x" * (length - len(path))
    found = find("socket", doctor.examine(settings(path)))
    assert found.state == state
    assert ("107" in found.found) == (state == "problem")


def test_silent_listener_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TIMEOUT_S", 0.01)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "host.sock"))
        listener.listen()
        found = find("socket", doctor.examine(settings(tmp_path / "host.sock")))
    assert found.state == "problem"
    assert "does not answer" in found.found


def test_full_listener_is_a_problem(tmp_path: Path) -> None:
    path = str(tmp_path / "host.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(path)
        listener.listen(0)
        waiting.connect(path)
        found = find("socket", doctor.examine(settings(path)))
    assert found.state == "problem"
    assert "does not answer" in found.found


def answer_once(listener: socket.socket, reply: bytes) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.recv(4096)
        peer.sendall(reply)


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x01\0\0\0\xc1"])
def test_stranger_at_the_socket_is_a_problem(reply: bytes, tmp_path: Path) -> None:
    path = str(tmp_path / "host.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        stranger = threading.Thread(target=answer_once, args=(listener, reply))
        stranger.start()
        found = find("socket", doctor.examine(settings(path)))
        stranger.join()
    assert found.state == "problem"
    assert f"connecting to {path} fails: {os.strerror(errno.EPROTO)}" in found.found


@needs_root
@pytest.mark.parametrize(
    ("mode", "gid", "advice"),
    [
        (0, 0, "--socket-mode"),
        (0o660, 0, "a group of its own"),
        (0o660, 4321, "usermod -aG 4321 USER"),
        (0o660, 65534, None),
    ],
)
def test_socket_says_who_may_connect(host: WatchedHost, mode: int, gid: int, advice: str | None) -> None:
    open_folders(host.socket_path)
    os.chown(host.socket_path, 0, gid)
    os.chmod(host.socket_path, mode)

    def child() -> None:
        as_nobody()
        found = find("socket", doctor.examine(Config(socket_path=host.socket_path)))
        if advice is None:
            assert "a host answers" in found.found
            return
        assert found.state == "problem"
        assert (
            f"permission denied: {host.socket_path} is {stat.filemode(stat.S_IFSOCK | mode)}" in found.found
        )
        assert f"uid 0, gid {gid}" in found.found
        assert "this process is uid 65534, gid 65534, groups 777" in found.found
        assert advice in found.advice

    assert in_child(child) == 0


@needs_root
def test_private_folder_above_the_socket_is_a_problem(host: WatchedHost) -> None:
    open_folders(host.socket_path)
    Path(host.socket_path).parent.chmod(0o700)

    def child() -> None:
        as_nobody()
        found = find("socket", doctor.examine(Config(socket_path=host.socket_path)))
        assert found.state == "problem"
        assert "permission denied" in found.found
        assert "search permission" in found.advice

    assert in_child(child) == 0


@pytest.mark.parametrize(
    ("mode", "state"), [(0o777, "problem"), (0o1777, "ok"), (0o775, "ok"), (0o757, "problem")]
)
@pytest.mark.parametrize("name", ["host.sock", "below/host.sock"])
def test_folder_is_a_problem_when_all_can_write_to_it(
    mode: int, state: str, name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    (folder / name).parent.mkdir(exist_ok=True)
    found = find("socket folder", doctor.examine(settings(folder / name)))
    assert found.state == state
    assert (found.advice == f"chmod o-w {folder}") == (state == "problem")


def test_folder_is_looked_at_behind_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to("open")
    found = find("socket folder", doctor.examine(settings(tmp_path / "link" / "host.sock")))
    assert (found.state, found.advice) == ("problem", f"chmod o-w {tmp_path / 'open'}")


def test_folder_that_is_missing_is_no_problem(tmp_path: Path) -> None:
    found = find("socket folder", doctor.examine(settings(tmp_path / "run" / "shmhost" / "host.sock")))
    assert found.state == "ok"


# --- made-up trees


def test_good_tree_has_no_problem(tree: Path, tmp_path: Path) -> None:
    findings = doctor.examine(settings(tmp_path / "host.sock"), tree)
    read = ("memfd policy", "mappings", "memory", "container", "huge pages", "overcommit", "window")
    assert [find(topic, findings).state for topic in read] == ["ok"] * len(read)
    assert (
        find("memory", findings).found == "the budget is 64.0 MiB of 16.0 GiB; no cgroup limits this process"
    )


@pytest.mark.parametrize(("limit", "state"), [(64 * MIB - 1, "problem"), (64 * MIB, "ok")])
@pytest.mark.parametrize(
    ("group", "folder", "name"),
    [
        ("0::/a/b\n", "sys/fs/cgroup/a/b", "memory.max"),
        ("0::/a/b\n", "sys/fs/cgroup/a", "memory.max"),
        ("0::/a/b\n", "sys/fs/cgroup", "memory.max"),
        ("0::/../../a\n", "sys/fs/cgroup/a", "memory.max"),
        ("5:cpu,memory:/a\n0::/\n", "sys/fs/cgroup/memory/a", "memory.limit_in_bytes"),
        ("5:memory:/gone\n", "sys/fs/cgroup/memory", "memory.limit_in_bytes"),
    ],
)
def test_budget_over_the_limit_of_a_cgroup_is_a_problem(
    limit: int, state: str, group: str, folder: str, name: str, tree: Path, tmp_path: Path
) -> None:
    write(tree, proc__self__cgroup=group)
    (tree / folder).mkdir(parents=True)
    (tree / folder / name).write_text(f"{limit}\n")
    found = find("memory", doctor.examine(settings(tmp_path / "host.sock"), tree))
    assert found.state == state
    assert ("the kernel kills" in found.advice) == (state == "problem")
    assert (str(tree / folder / name) in found.found) == (state == "problem")


@pytest.mark.parametrize("text", ["max\n", f"{UNLIMITED}\n", f"{2**63}"])
def test_cgroup_without_a_limit_has_none(text: str, tree: Path, tmp_path: Path) -> None:
    write(tree, proc__self__cgroup="0::/a\n5:memory:/a\n")
    write(tree, **{"sys__fs__cgroup__a__memory.max": text})
    write(tree, **{"sys__fs__cgroup__memory__a__memory.limit_in_bytes": text})
    assert memory_limits(tree) == []
    assert find("memory", doctor.examine(settings(tmp_path / "host.sock"), tree)).state == "ok"


def test_lowest_limit_counts(tree: Path) -> None:
    write(tree, proc__self__cgroup="0::/a/b\n")
    write(tree, **{"sys__fs__cgroup__a__b__memory.max": "3000", "sys__fs__cgroup__a__memory.max": "2000"})
    write(tree, **{"sys__fs__memory.max": "1000"})  # not a cgroup's
    assert min(memory_limits(tree)) == (2000, str(tree / "sys/fs/cgroup/a/memory.max"))
    assert judge.memory_budget(2001, GIB, memory_limits(tree)).state == "problem"
    assert judge.memory_budget(2000, GIB, memory_limits(tree)).state == "ok"


def test_budget_over_the_machine_is_noted(tree: Path, tmp_path: Path) -> None:
    found = find("memory", doctor.examine(settings(tmp_path / "host.sock", budget=16 * GIB + 1), tree))
    assert found.state == "note"
    assert "this machine has 16.0 GiB" in found.found
    found = find("memory", doctor.examine(settings(tmp_path / "host.sock", budget=16 * GIB), tree))
    assert found.state == "ok"


@pytest.mark.parametrize("sign", [".dockerenv", "run/.containerenv", None])
def test_container_says_which_memory_limit_applies(sign: str | None, tree: Path, tmp_path: Path) -> None:
    write(tree, proc__self__cgroup="0::/docker/abc\n" if sign is None else "0::/\n")
    if sign is not None:
        write(tree, **{sign: ""})
    config = settings(tmp_path / "host.sock")
    assert "without a memory limit" in find("container", doctor.examine(config, tree)).found
    write(tree, **{"sys__fs__cgroup__memory.max": str(512 * MIB)})
    found = find("container", doctor.examine(config, tree))
    assert "with 512.0 MiB of memory" in found.found
    assert (sign or "docker") in found.found


@pytest.mark.parametrize(
    ("text", "state", "word"),
    [
        ("always within_size advise [never] deny force", "note", "within_size"),
        ("always within_size advise never [deny] force", "note", "within_size"),
        ("[always] within_size advise never deny force", "note", "small"),
        ("always [within_size] advise never deny force", "ok", ""),
        ("always within_size [advise] never deny force", "ok", ""),
    ],
)
def test_huge_pages_are_noted_when_never_or_always(
    text: str, state: str, word: str, tree: Path, tmp_path: Path
) -> None:
    write(tree, sys__kernel__mm__transparent_hugepage__shmem_enabled=text)
    found = find("huge pages", doctor.examine(settings(tmp_path / "host.sock"), tree))
    assert found.state == state
    assert word in found.advice


@pytest.mark.parametrize(("limit", "state"), [(8193, "ok"), (8192, "note"), (513, "note"), (512, "problem")])
def test_mappings_are_counted_against_their_limit(limit: int, state: str, tree: Path, tmp_path: Path) -> None:
    write(tree, proc__sys__vm__max_map_count=f"{limit}\n")  # one is in use
    found = find("mappings", doctor.examine(settings(tmp_path / "host.sock"), tree))
    assert found.state == state
    assert f"can map {(limit - 1) // 2} regions" in found.found


@pytest.mark.parametrize(
    ("name", "topic"), [("overcommit_memory", "overcommit"), ("memfd_noexec", "memfd policy")]
)
@pytest.mark.parametrize(("value", "state"), [(0, "ok"), (1, "ok"), (2, "note")])
def test_strict_sysctls_are_noted(
    name: str, topic: str, value: int, state: str, tree: Path, tmp_path: Path
) -> None:
    (tree / "proc/sys/vm" / name).write_text(f"{value}\n")
    assert find(topic, doctor.examine(settings(tmp_path / "host.sock"), tree)).state == state


def test_window_names_what_the_list_of_mappings_has_in_it(tree: Path, tmp_path: Path) -> None:
    base, size = WINDOWS[0]
    lines = [
        f"{base - 4096:x}-{base:x} rw-p 00000000 00:00 0 before",
        *(f"{base + n * 8192:x}-{base + n * 8192 + 4096:x} rw-s 0 00:01 7    /a b/{n}" for n in range(5)),
        f"{base + size:x}-{base + size + 4096:x} rw-p 00000000 00:00 0 behind",
        "garbage",
    ]
    write(tree, proc__self__maps="\n".join(lines))
    found = find("window", doctor.examine(settings(tmp_path / "host.sock"), tree))
    assert found.state == "problem"
    assert f"/a b/0 (rw-s) at {base:#x}-{base + 4096:#x}; " in found.found
    assert "/a b/2" in found.found
    assert found.found.endswith(" and 2 more")
    assert "before" not in found.found
    assert "behind" not in found.found


READ = {
    "proc/self/cgroup": ["memory", "container"],
    "proc/self/maps": ["mappings", "window"],
    "proc/self/statm": ["address space"],
    "proc/meminfo": ["memory"],
    "proc/sys/vm/memfd_noexec": ["memfd policy"],
    "proc/sys/vm/max_map_count": ["mappings"],
    "proc/sys/vm/overcommit_memory": ["overcommit"],
    "sys/kernel/mm/transparent_hugepage/shmem_enabled": ["huge pages"],
}


@pytest.mark.parametrize("name", READ)
def test_missing_file_is_a_note_of_the_checks_that_read_it(name: str, tree: Path, tmp_path: Path) -> None:
    (tree / name).unlink()
    findings = doctor.examine(settings(tmp_path / "host.sock"), tree)
    failed = [finding for finding in findings if "could not be checked" in finding.found]
    assert [(one.topic, one.state) for one in failed] == [(topic, "note") for topic in READ[name]]
    assert all(f"{tree / name}: No such file" in one.found for one in failed)
    assert all(one.advice for one in failed)


GARBAGE = [
    b"",
    b"9" * 400,
    b"\n",
    b"max\n",
    b"\xff\xfe\0\x80",
    b"9" * 5000,
    b"-1",
    "\u0664\u0662".encode(),
    b"a:b:c\n" * 20000,
]


@pytest.mark.parametrize("content", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("name", [name for name in READ if name != "proc/self/cgroup"])
def test_garbage_in_a_file_is_a_note_of_the_checks_that_read_it(
    name: str, content: bytes, tree: Path, tmp_path: Path
) -> None:
    (tree / name).write_bytes(content)
    findings = doctor.examine(settings(tmp_path / "host.sock"), tree)
    failed = [finding for finding in findings if "could not be checked" in finding.found]
    # How many lines there are is all that is asked of the list of mappings by one of them.
    expected = [topic for topic in READ[name] if (name, topic) != ("proc/self/maps", "mappings")]
    assert [one.topic for one in failed] == expected
    assert doctor.is_healthy(one for one in findings if one.topic in expected)
    assert all(len(one.found) < 300 for one in failed)


@pytest.mark.parametrize("content", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("name", ["proc/self/cgroup", "sys/fs/cgroup/memory.max", ".dockerenv"])
def test_garbage_about_cgroups_is_no_error(name: str, content: bytes, tree: Path, tmp_path: Path) -> None:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    findings = doctor.examine(settings(tmp_path / "host.sock"), tree)
    assert [finding.topic for finding in findings] == TOPICS
    unread = name.endswith("memory.max") and content != b"max\n"
    assert ("could not be checked" in find("memory", findings).found) == unread


@pytest.mark.parametrize(
    "line", ["0::/" + "a/" * 30000, "0::/\0", "0::/" + "x" * 300, "0::", "memory", ":memory:"]
)
def test_odd_cgroup_lines_are_no_error(line: str, tree: Path, tmp_path: Path) -> None:
    write(tree, proc__self__cgroup=line)
    findings = doctor.examine(settings(tmp_path / "host.sock"), tree)
    assert [finding.topic for finding in findings] == TOPICS


def test_everything_missing_leaves_all_topics(tmp_path: Path) -> None:
    findings = doctor.examine(settings(tmp_path / "host.sock"), tmp_path / "nowhere")
    # Without the list of mappings there is one note for all windows.
    assert [finding.topic for finding in findings] == list(dict.fromkeys(TOPICS))
    failed = {finding.topic for finding in findings if "could not be checked" in finding.found}
    assert failed == {topic for topics in READ.values() for topic in topics}


# --- judgements at their edges


@pytest.mark.parametrize(
    ("release", "bits", "state"),
    [
        ("5.9.16-generic", 64, "problem"),
        ("5.10.0", 64, "ok"),
        ("4.18.0-553.el8", 64, "problem"),
        ("6.1", 64, "ok"),
        ("10.0-rc1", 64, "ok"),
        ("6.1", 32, "problem"),
        ("", 64, "note"),
        ("unknown", 64, "note"),
    ],
)
def test_kernel_is_judged_by_version_and_width(release: str, bits: int, state: str) -> None:
    assert judge.kernel(release, "x86_64", bits).state == state


@pytest.mark.parametrize(
    ("with_seal", "without", "state"),
    [
        (0, 0, "ok"),
        (0, errno.EACCES, "ok"),
        (errno.EINVAL, 0, "note"),
        (errno.EINVAL, errno.EINVAL, "problem"),
        (errno.EPERM, 0, "problem"),
        (errno.EMFILE, errno.EMFILE, "problem"),
    ],
)
def test_memfd_falls_back_only_where_the_host_does(with_seal: int, without: int, state: str) -> None:
    assert judge.memfd(with_seal, without).state == state


@pytest.mark.parametrize("judgement", [judge.seals, judge.peer_death])
def test_missing_feature_is_a_note(judgement: Callable[[int], doctor.Finding]) -> None:
    assert (judgement(0).state, judgement(0).advice) == ("ok", "")
    assert judgement(errno.EINVAL).state == "note"
    assert os.strerror(errno.EINVAL) in judgement(errno.EINVAL).found


def test_replaced_mapping_is_a_problem() -> None:
    assert (judge.fixed_addresses(True).state, judge.fixed_addresses(False).state) == ("ok", "problem")


@pytest.mark.parametrize(
    ("soft", "state"),
    [(255, "problem"), (256, "note"), (4095, "note"), (4096, "ok"), (resource.RLIM_INFINITY, "ok")],
)
def test_open_files_are_judged_at_256_and_4096(soft: int, state: str) -> None:
    assert judge.open_files(soft, 4096).state == state


@pytest.mark.parametrize(
    ("left", "state"),
    [(GIB, "ok"), (GIB - 1, "note"), (256 * MIB, "note"), (256 * MIB - 1, "problem"), (-5, "problem")],
)
def test_address_space_is_judged_by_what_is_left(left: int, state: str) -> None:
    assert judge.address_space(MIB * 1000 + left, MIB * 1000, GIB).state == state
    assert judge.address_space(resource.RLIM_INFINITY, MIB, GIB).state == "ok"


@pytest.mark.parametrize(
    ("soft", "state"), [(65536, "note"), (MIB - 1, "note"), (MIB, "ok"), (resource.RLIM_INFINITY, "ok")]
)
def test_locked_memory_is_noted_when_it_is_small(soft: int, state: str) -> None:
    found = judge.locked_memory(soft)
    assert found.state == state
    assert ("LimitMEMLOCK" in found.advice) == (state == "note")


def test_fixed_addresses_are_measured_on_a_page_of_our_own() -> None:
    with mmap.mmap(-1, 4096) as page:
        page[:4] = b"kept"
        assert doctor._keeps_mapping() is True
        assert page[:4] == b"kept"


FOLDERS, MODE, OWN_GROUP, JOIN = "folders above", "--socket-mode", "group of its own", "usermod -aG shm "


@pytest.mark.parametrize(
    ("mode", "gid", "who", "advice"),
    [
        (0o666, 0, (7, 7, ()), FOLDERS),
        (0o660, 40, (7, 40, ()), FOLDERS),
        (0o660, 40, (7, 7, (40,)), FOLDERS),
        (0o600, 40, (5, 7, ()), FOLDERS),
        (0o066, 40, (5, 40, (40,)), MODE),  # the owner's bits alone count for the owner
        (0o606, 40, (7, 40, ()), MODE),  # and the group's for a member
        (0o600, 40, (7, 7, ()), MODE),
        (0o660, 0, (7, 7, ()), OWN_GROUP),
        (0o660, 40, (7, 7, (41,)), JOIN),
    ],
)
def test_denied_connection_says_what_would_help(
    mode: int, gid: int, who: tuple[int, int, tuple[int, ...]], advice: str
) -> None:
    status = judge.SocketStatus(stat.S_IFSOCK | mode, 5, gid, "shm")
    identity = judge.Identity(who[0], who[1], frozenset(who[2]))
    found = judge.connection("/s", status, identity, errno.EACCES)
    assert found.state == "problem"
    assert f"groups {', '.join(map(str, who[2])) or 'none'}" in found.found
    assert advice in found.advice


def test_failure_without_words_is_named_by_its_class() -> None:
    assert judge.unchecked("memfd", MemoryError()).found == "could not be checked: MemoryError"


# --- shown


@pytest.mark.parametrize("width", [80, 60, 200])
def test_table_fits_the_console_with_long_paths(width: int, tree: Path, tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250)
    path.mkdir()
    path.chmod(0o777)
    findings = doctor.examine(settings(path / ("[red]" + "y" * 120)), tree)
    output = StringIO()
    Console(file=output, width=width).print(doctor.doctor_table(findings))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = "".join("".join(line.split()) for line in lines)
    assert all("".join(finding.found.split()) in text for finding in findings)
    assert all("".join(f"-> {finding.advice}".split()) in text for finding in findings if finding.advice)


def test_table_has_the_state_as_a_word_beside_its_colour() -> None:
    findings = [doctor.Finding("a", state, "[bold]found", "") for state in ("ok", "note", "problem")]
    plain, coloured = StringIO(), StringIO()
    Console(file=plain, width=80, no_color=True).print(doctor.doctor_table(findings))
    Console(file=coloured, width=80, force_terminal=True, color_system="standard").print(
        doctor.doctor_table(findings)
    )
    rows = [line.split() for line in plain.getvalue().splitlines() if "found" in line][1:]
    assert rows == [["ok", "a", "[bold]found"], ["note", "a", "[bold]found"], ["problem", "a", "[bold]found"]]
    assert all(code in coloured.getvalue() for code in ("\x1b[32mok", "\x1b[33mnote", "\x1b[1;31mproblem"))


def test_control_characters_do_not_reach_the_terminal(tree: Path) -> None:
    path = "/nowhere/\x1b[31m\udcff\nred"
    findings = doctor.examine(settings(path), tree)
    assert "\N{REPLACEMENT CHARACTER}[31m" in find("socket", findings).found
    assert all(text.isprintable() for finding in findings for text in finding)
    json.dumps(doctor.as_json(findings), ensure_ascii=False).encode()


def test_json_has_the_fields_of_each_finding(tree: Path, tmp_path: Path) -> None:
    findings = doctor.examine(settings(tmp_path / "host.sock"), tree)
    parsed = json.loads(json.dumps(doctor.as_json(findings)))
    assert [list(one) for one in parsed] == [["topic", "state", "found", "advice"]] * len(TOPICS)
    assert [tuple(one.values()) for one in parsed] == [tuple(finding) for finding in findings]


def test_healthy_is_what_has_no_problem() -> None:
    ok, note, problem = (doctor.Finding("a", state, "b", "c") for state in ("ok", "note", "problem"))
    assert doctor.is_healthy([ok, note])
    assert not doctor.is_healthy([ok, problem, note])
    assert doctor.is_healthy([])
