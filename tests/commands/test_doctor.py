"""What `doctor` finds on this machine, with a real host and with lowered limits."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from doctor_support import MIB, TOPICS, WINDOWS, find, settings
from shmhost.commands.doctor import judge, table
from shmhost.commands.doctor import measure as doctor
from shmhost.settings.config import GIB, Config
from shmprotocol.kernel import address_space
from support import WatchedHost, count_descriptors, in_child, wait_until

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
    assert table.is_healthy(finding for finding in findings if finding.topic in needed)


def test_peer_death_is_ok_where_the_kernel_has_it(tmp_path: Path) -> None:
    version = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
    finding = find("peer death", doctor.examine(settings(tmp_path / "host.sock")))
    assert finding.state == ("ok" if version >= (6, 5) else "note")


def test_host_answers_when_one_serves_the_socket(host: WatchedHost) -> None:
    finding = find("socket", doctor.examine(Config(socket_path=host.socket_path)))
    assert (finding.state, finding.advice) == ("ok", "")
    assert f"a host answers at {host.socket_path} (srw-rw----, uid {os.getuid()}" in finding.found


def test_other_windows_of_the_host_are_noted(host: WatchedHost) -> None:
    finding = find("socket", doctor.examine(settings(host.socket_path)))
    assert finding.state == "note"
    assert "a host answers" in finding.found
    assert "windows other than" in finding.found


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
        finding = lowered(resource.RLIMIT_NOFILE, 255, config, "open files")
        assert finding.state == "problem"
        assert "RLIMIT_NOFILE is 255" in finding.found
        assert "ulimit -n" in finding.advice

    assert in_child(child) == 0


def test_limited_addresses_are_noted_and_the_window_cannot_be_reserved(tmp_path: Path) -> None:
    config = settings(tmp_path / "host.sock", windows=((WINDOWS[0][0], 4096 * GIB // 4),))

    def child() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        finding = lowered(resource.RLIMIT_AS, used + 512 * MIB, config, "address space")
        assert finding.state == "note"
        assert "ulimit -v" in finding.advice
        window = find("window", doctor.examine(config))
        assert window.state == "note"
        assert "each region is mapped alone" in window.found
        assert lowered(resource.RLIMIT_AS, used + 128 * MIB, config, "address space").state == "problem"

    assert in_child(child) == 0


def test_window_is_a_problem_when_something_lies_in_it(tmp_path: Path) -> None:
    base, _ = WINDOWS[0]
    config = settings(tmp_path / "host.sock")

    def child() -> None:
        assert address_space.reserve(base + 5 * MIB, 4096)
        finding = find("window", doctor.examine(config))
        assert finding.state == "problem"
        assert f"anonymous memory (---p) at {base + 5 * MIB:#x}-{base + 5 * MIB + 4096:#x}" in finding.found
        assert "--window" in finding.advice
        assert address_space.mapping_at(base + 5 * MIB) is not None  # it was not replaced, and not unmapped

    assert in_child(child) == 0


def test_window_is_a_problem_when_what_lies_in_it_is_not_listed(tree: Path, tmp_path: Path) -> None:
    def child() -> None:
        assert address_space.reserve(WINDOWS[0][0], 4096)
        finding = find("window", doctor.examine(settings(tmp_path / "host.sock"), tree))
        assert finding.state == "problem"
        assert "an unknown mapping" in finding.found

    assert in_child(child) == 0


def test_only_the_window_that_is_taken_is_a_problem(tmp_path: Path) -> None:
    def child() -> None:
        assert address_space.reserve(WINDOWS[1][0], 4096)
        findings = doctor.examine(settings(tmp_path / "host.sock"))
        assert [finding.state for finding in findings if finding.topic == "window"] == ["ok", "problem"]

    assert in_child(child) == 0
