"""What `doctor` makes of measurements at their edges, and how it shows them."""

from __future__ import annotations

import errno
import json
import mmap
import os
import resource
import stat
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from doctor_support import MIB, TOPICS, find, settings
from shmhost.commands.doctor import judge, table
from shmhost.commands.doctor import measure as doctor
from shmhost.settings.config import GIB

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


def test_threads_that_share_all_descriptors_are_a_note() -> None:
    assert (judge.held_locks(True).state, judge.held_locks(True).advice) == ("ok", "")
    assert judge.held_locks(False).state == "note"
    assert "pidfd_getfd" in judge.held_locks(False).advice


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
    finding = judge.locked_memory(soft)
    assert finding.state == state
    assert ("LimitMEMLOCK" in finding.advice) == (state == "note")


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
    finding = judge.connection("/s", status, identity, errno.EACCES)
    assert finding.state == "problem"
    assert f"groups {', '.join(map(str, who[2])) or 'none'}" in finding.found
    assert advice in finding.advice


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
    Console(file=output, width=width).print(table.doctor_table(findings))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = "".join("".join(line.split()) for line in lines)
    assert all("".join(finding.found.split()) in text for finding in findings)
    assert all("".join(f"-> {finding.advice}".split()) in text for finding in findings if finding.advice)


def test_table_has_the_state_as_a_word_beside_its_colour() -> None:
    findings = [doctor.Finding("a", state, "[bold]found", "") for state in ("ok", "note", "problem")]
    plain, coloured = StringIO(), StringIO()
    Console(file=plain, width=80, no_color=True).print(table.doctor_table(findings))
    Console(file=coloured, width=80, force_terminal=True, color_system="standard").print(
        table.doctor_table(findings)
    )
    rows = [line.split() for line in plain.getvalue().splitlines() if "found" in line][1:]
    assert rows == [["ok", "a", "[bold]found"], ["note", "a", "[bold]found"], ["problem", "a", "[bold]found"]]
    assert all(code in coloured.getvalue() for code in ("\x1b[32mok", "\x1b[33mnote", "\x1b[1;31mproblem"))


def test_control_characters_do_not_reach_the_terminal(tree: Path) -> None:
    path = "/nowhere/\x1b[31m\udcff\nred"
    findings = doctor.examine(settings(path), tree)
    assert "\N{REPLACEMENT CHARACTER}[31m" in find("socket", findings).found
    assert all(text.isprintable() for finding in findings for text in finding)
    json.dumps(table.as_json(findings), ensure_ascii=False).encode()


def test_json_has_the_fields_of_each_finding(tree: Path, tmp_path: Path) -> None:
    findings = doctor.examine(settings(tmp_path / "host.sock"), tree)
    parsed = json.loads(json.dumps(table.as_json(findings)))
    assert [list(row) for row in parsed] == [["topic", "state", "found", "advice"]] * len(TOPICS)
    assert [tuple(row.values()) for row in parsed] == [tuple(finding) for finding in findings]


def test_healthy_is_what_has_no_problem() -> None:
    ok, note, problem = (doctor.Finding("a", state, "b", "c") for state in ("ok", "note", "problem"))
    assert table.is_healthy([ok, note])
    assert not table.is_healthy([ok, problem, note])
    assert table.is_healthy([])
