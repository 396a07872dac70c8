"""What `doctor` reads in made-up /proc and /sys trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from doctor_support import MIB, TOPICS, WINDOWS, find, settings, write
from shmhost.commands.doctor import judge, table
from shmhost.commands.doctor import measure as doctor
from shmhost.machine.kernel import memory_limits
from shmhost.settings.config import GIB

UNLIMITED = 9223372036854771712  # what cgroup version 1 says without a limit


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
    finding = find("memory", doctor.examine(settings(tmp_path / "host.sock"), tree))
    assert finding.state == state
    assert ("the kernel kills" in finding.advice) == (state == "problem")
    assert (str(tree / folder / name) in finding.found) == (state == "problem")


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
    finding = find("memory", doctor.examine(settings(tmp_path / "host.sock", budget=16 * GIB + 1), tree))
    assert finding.state == "note"
    assert "this machine has 16.0 GiB" in finding.found
    finding = find("memory", doctor.examine(settings(tmp_path / "host.sock", budget=16 * GIB), tree))
    assert finding.state == "ok"


@pytest.mark.parametrize("sign", [".dockerenv", "run/.containerenv", None])
def test_container_says_which_memory_limit_applies(sign: str | None, tree: Path, tmp_path: Path) -> None:
    write(tree, proc__self__cgroup="0::/docker/abc\n" if sign is None else "0::/\n")
    if sign is not None:
        write(tree, **{sign: ""})
    config = settings(tmp_path / "host.sock")
    assert "without a memory limit" in find("container", doctor.examine(config, tree)).found
    write(tree, **{"sys__fs__cgroup__memory.max": str(512 * MIB)})
    finding = find("container", doctor.examine(config, tree))
    assert "with 512.0 MiB of memory" in finding.found
    assert (sign or "docker") in finding.found


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
    finding = find("huge pages", doctor.examine(settings(tmp_path / "host.sock"), tree))
    assert finding.state == state
    assert word in finding.advice


@pytest.mark.parametrize(("limit", "state"), [(8193, "ok"), (8192, "note"), (513, "note"), (512, "problem")])
def test_mappings_are_counted_against_their_limit(limit: int, state: str, tree: Path, tmp_path: Path) -> None:
    write(tree, proc__sys__vm__max_map_count=f"{limit}\n")  # one is in use
    finding = find("mappings", doctor.examine(settings(tmp_path / "host.sock"), tree))
    assert finding.state == state
    assert f"can map {(limit - 1) // 2} regions" in finding.found


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
    finding = find("window", doctor.examine(settings(tmp_path / "host.sock"), tree))
    assert finding.state == "problem"
    assert f"/a b/0 (rw-s) at {base:#x}-{base + 4096:#x}; " in finding.found
    assert "/a b/2" in finding.found
    assert finding.found.endswith(" and 2 more")
    assert "before" not in finding.found
    assert "behind" not in finding.found


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
    assert [(note.topic, note.state) for note in failed] == [(topic, "note") for topic in READ[name]]
    assert all(f"{tree / name}: No such file" in note.found for note in failed)
    assert all(note.advice for note in failed)


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
    assert [note.topic for note in failed] == expected
    assert table.is_healthy(note for note in findings if note.topic in expected)
    assert all(len(note.found) < 300 for note in failed)


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
