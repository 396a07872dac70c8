"""Policy files: what their rules decide, at each limit and one more, and what is said of mistakes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shmclient
from session_support import CREATE, World
from settings_support import policy_of, refusal
from shmhost.core.peers import Peer
from shmhost.core.policy import Policy, Wish
from shmhost.core.registry import REGION_OVERHEAD
from shmhost.settings.policies import COUNTS, KEYS, SIZES, read_policy
from shmprotocol.errors import AccessDenied, InvalidArgument, QuotaExceeded
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from support import wait_until

ALICE = Peer(1000, 70)


@pytest.fixture
def world() -> World:
    return World()


def restrict(world: World, text: str) -> None:
    world.hub.registry.accounts.restrict(policy_of(text))


def test_limit_of_bytes_is_kept_to_the_byte(world: World) -> None:
    talk = world.client(uid=1000)
    capacity = 2 * 4096 + REGION_OVERHEAD
    restrict(world, f"[[limits]]\nbytes = {2 * capacity}")
    assert isinstance(talk.publish("a"), m.Published)
    assert isinstance(talk.say(CREATE._replace(name="b", size=4097)), m.Refused)
    text = talk.last().text
    assert f"that rule 1 in [[limits]] gives uid 1000, which has {capacity}" in text
    assert isinstance(talk.publish("b"), m.Published)


def test_limit_of_regions_is_kept_to_the_region(world: World) -> None:
    talk, other = world.client(uid=1000), world.client(uid=1001)
    restrict(world, "[[limits]]\nregions = 2")
    for name in "ab":
        talk.publish(name)
    refused = talk.say(CREATE._replace(name="c"))
    assert (refused.code, refused.text[:66]) == (
        "quota-exceeded",
        "1 regions are over the 2 that rule 1 in [[limits]] gives uid 1000,",
    )
    other.publish("c")


def test_limit_that_is_lowered_takes_nothing_away(world: World) -> None:
    talk = world.client(uid=1000)
    talk.publish("a")
    restrict(world, "[[limits]]\nregions = 0")
    assert talk.say(CREATE._replace(name="b")).code == "quota-exceeded"
    assert isinstance(talk.say(m.Stat(7, "a")), m.Described)
    restrict(world, "")
    talk.publish("b")


def test_limit_that_is_lowered_is_kept_when_less_is_there(world: World) -> None:
    talk = world.client(uid=1000)
    leases = {name: talk.publish(name).grant.lease for name in "abc"}
    restrict(world, "[[limits]]\nregions = 1")
    for name, lease in leases.items():
        assert talk.say(CREATE._replace(name="d")).code == "quota-exceeded"
        talk.say(m.Release(8, (lease,)))
        assert isinstance(talk.say(m.Unlink(9, name)), m.Done)
    talk.publish("d")
    assert talk.say(CREATE._replace(name="e")).code == "quota-exceeded"


def test_policy_refuses_puts_on_each_road(world: World) -> None:
    talk = world.client(uid=1000)
    put = m.Put(3, "x", 0o600, True, 10, 0, 0, b"x" * 10)
    assert isinstance(talk.say(put), m.Published)
    restrict(world, '[[names]]\nprefixes = ["y"]\nsize = 9')
    assert talk.say(put).code == "access-denied"
    assert talk.say(put._replace(name="y")).code == "quota-exceeded"
    assert isinstance(talk.say(put._replace(name="y", data_size=9, payload=b"x" * 9)), m.Published)


# --- mistakes

MISTAKES = [
    ("a = = 1", "line 1: Invalid value (at line 1, column 5)"),
    ("[[rules]]", "line 1: 'rules' is unknown: a policy has [[names]] and [[limits]]"),
    ("x = 1", "line 1: 'x' is unknown"),
    ("[names]\nallow = true", "line 1: 'names' is unknown"),
    ("\n[[names]]\n\nprefix = 'a'", "line 4: 'prefix' is unknown in [[names]]: use title, users,"),
    ("[[names]]\nprefixes = 'a'", 'line 2: prefixes is a list such as ["one", "two"], not \'a\''),
    ("[[names]]\nprefixes = []", "line 2: prefixes has at least one"),
    ("[[names]]\nprefixes = [1]", "line 2: a prefix is a str, not int"),
    ("[[names]]\nallow = 1", "line 2: allow is true or false, not 1"),
    ("[[names]]\nat_address = 1", "line 2: at_address is true or false, not 1"),
    ("[[names]]\nseals = ['none']", "line 2: seals has some of full, writer, shared, not ['none']"),
    ("[[names]]\nbackends = []", "line 2: backends has some of memfd, shm, not []"),
    ("[[names]]\nkinds = [1]", "line 2: kinds has some of region, arena, not [1]"),
    ("[[names]]\nsize = '1X'", "line 2: size: a size is a number of bytes"),
    ("[[names]]\nsize = -1", "line 2: size is a number of bytes or a text"),
    ("[[names]]\nusers = ['no such user']", "line 2: there is no user 'no such user' on this machine"),
    ("[[names]]\ngroups = ['no such group']", "line 2: there is no group 'no such group' on this machine"),
    ("[[names]]\nusers = [-1]", "line 2: users: -1 is not a number from 0 to"),
    ("[[names]]\nusers = [4294967295]", "line 2: users: 4294967295 is not a number"),
    ("[[names]]\nusers = []", "line 2: users has at least one"),
    ("[[names]]\ntitle = 1", "line 2: title is a text in quotes, not 1"),
    ("[[limits]]", "line 1: no limit is in [[limits]]: use bytes,"),
    ("[[limits]]\nregions = true", "line 2: regions is a number, 0 or more, not True"),
    ("[[limits]]\nregions = '1'", "line 2: regions is a number, 0 or more, not '1'"),
    ("[[names]]\n[[names]]\nusers = [7]", "line 2: this rule never decides: the one in line 1 comes first"),
    ("[[names]]\nprefixes = ['a']\n[[names]]\nprefixes = ['ab', 'ac']", "line 3: this rule never decides"),
    (
        "[[limits]]\nusers = [7, 8]\nregions = 1\n[[limits]]\nusers = [7]\nregions = 2",
        "line 4: this rule never",
    ),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistake_is_told_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        policy_of(text)
    assert f"policy.toml, {message}" in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InvalidArgument) as caught:
        policy_of("[[limits]]\nbytes = '1Q'\nx = 1\n[[names]]\nallow = 3\n")
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        f"policy.toml, line {number}" for number in (2, 3, 5)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[[names]]\nprefixes = ['ab']\n[[names]]\nprefixes = ['a']",
        "[[names]]\nallow = false\n[[names]]\nusers = [0]\nallow = false",
        "[[names]]\nusers = [7]\n[[names]]\nusers = [7, 8]",
        "[[names]]\nusers = [7]\n[[names]]\ngroups = [7]",
        "[[limits]]\nregions = 1\n[[limits]]\nregions = 2\nbytes = 3",
    ],
)
def test_rules_may_overlap_as_long_as_each_decides_something(text: str) -> None:
    policy_of(text)


SCALARS = st.one_of(
    st.booleans(), st.integers(-2, 2**65), st.text(max_size=5), st.sampled_from(["full", "4G"])
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3))
ANY_KEYS = st.sampled_from(sorted({*KEYS["names"], *KEYS["limits"], "other"}))


@given(
    st.lists(st.tuples(st.sampled_from(["names", "limits"]), st.dictionaries(ANY_KEYS, VALUES, max_size=4)))
)
def test_any_table_is_a_rule_or_a_mistake(tables: list[tuple[str, dict[str, object]]]) -> None:
    text = "".join(
        f"[[{kind}]]\n" + "".join(f"{key} = {as_toml(value)}\n" for key, value in table.items())
        for kind, table in tables
    )
    policy = parsed(text)
    if policy is None:
        return
    assert len(policy.names) + len(policy.limits) == len(tables)
    policy.refusal(Wish("a", "region", "full", "memfd", 1), ALICE)


def parsed(text: str) -> Policy | None:
    """Return a policy, or None if a mistake was told, with a line."""
    message = ""
    try:
        return policy_of(text)
    except InvalidArgument as error:
        message = str(error)
    assert "policy.toml, line" in message
    return None


def as_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    return (
        str(value) if isinstance(value, int) else '"' + "".join(f"\\U{ord(c):08x}" for c in str(value)) + '"'
    )


@given(st.text())
def test_any_text_is_a_policy_or_a_mistake(text: str) -> None:
    parsed(text)


def test_file_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("[[limits]]\nregions = 1\n")
    path.chmod(0o644)
    assert len(read_policy(str(path), frozenset()).limits) == 1
    path.chmod(0o666)
    with pytest.raises(InvalidArgument, match="everybody may write"):
        read_policy(str(path), frozenset())


def test_fifo_and_folder_are_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, tmp_path / "missing"):
        with pytest.raises(InvalidArgument, match="policy"):
            read_policy(str(path), frozenset())


def test_example_of_the_documentation_is_right(world: World) -> None:
    text = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    example = text.split("```toml\n")[1].split("```")[0]
    for number, name in enumerate(("ml", "students"), 2000):
        example = example.replace(f'groups = ["{name}"]', f"groups = [{number}]")
    policy = policy_of(example)
    assert (len(policy.names), len(policy.limits)) == (3, 2)
    group = Peer(1000, 2000)
    assert refusal(policy, group, size=8 << 30) == refusal(policy, ALICE, "other") == ""
    assert "models are read-only" in refusal(policy, ALICE)
    assert "the rule 'models of the ML group' allows full there" in refusal(policy, group, seal="writer")
    assert policy.limits_of(1000, frozenset({2001}))["bytes"] == (2 << 30, "the rule 'students'")
    assert policy.limits_of(1000, frozenset())["connections"] == (200, "rule 2 in [[limits]]")


def test_every_limit_is_one_of_a_resource(world: World) -> None:
    names = {pool.name for pool in world.hub.registry.accounts.pools}
    assert names == {*SIZES, *COUNTS}


# --- the host and the command


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text('[[names]]\nusers = [0]\nprefixes = ["ok/"]\n[[names]]\nusers = [0]\nallow = false\n')
    path.chmod(0o644)
    return path


def test_sighup_has_the_policy_read_again(tmp_path: Path, policy_file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the policy names uid 0")
    path, log = str(tmp_path / "h.sock"), tmp_path / "log"
    command = [sys.executable, "-m", "shmhost", "serve", "--socket", path, "--policy", str(policy_file)]
    with log.open("w") as stream, subprocess.Popen(command, stderr=stream) as child:
        try:
            wait_until(lambda: "listening" in log.read_text())
            with shmclient.connect(path) as shm:
                shm.put("ok/a", b"x").close()
                with pytest.raises(AccessDenied, match=r"'other': rule 2 in \[\[names\]\] forbids it"):
                    shm.put("other", b"x")
                policy_file.write_text("[[names]]\nallow = 3\n")
                child.send_signal(signal.SIGHUP)
                wait_until(lambda: "the policy stays as it was" in log.read_text())
                assert "line 2: allow is true or false" in log.read_text()
                with pytest.raises(AccessDenied):
                    shm.put("other", b"x")
                policy_file.write_text("[[limits]]\nusers = [0]\nregions = 2\n")
                child.send_signal(signal.SIGHUP)
                wait_until(lambda: log.read_text().count("rules") == 2)
                shm.put("other", b"x").close()
                with pytest.raises(QuotaExceeded, match=r"over the 2 that rule 1 in \[\[limits\]\]"):
                    shm.put("more", b"x" * 100_000)
        finally:
            child.terminate()


def run_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shmhost", "config", "--check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_config_check_says_what_is_wrong_or_that_nothing_is(policy_file: Path) -> None:
    good = run_check("--policy", str(policy_file))
    assert (good.returncode, good.stdout) == (0, "no mistakes; rules for names: 2, for limits: 0\n")
    policy_file.write_text("[[limits]]\nbytes = 'x'\n")
    bad = run_check("--policy", str(policy_file))
    assert (bad.returncode, bad.stdout) == (1, "")
    assert f"{policy_file}, line 2: bytes: a size is a number" in bad.stderr
    assert run_check().stdout == "no mistakes: there is no policy\n"


def test_host_does_not_start_with_mistakes_in_its_policy(tmp_path: Path, policy_file: Path) -> None:
    policy_file.write_text("[[limits]]\n")
    command = [sys.executable, "-m", "shmhost", "serve", "--socket", str(tmp_path / "h.sock")]
    result = subprocess.run(
        [*command, "--policy", str(policy_file)], capture_output=True, text=True, timeout=30, check=False
    )
    assert result.returncode == 1
    assert "line 1: no limit is in [[limits]]" in result.stderr


# --- who holds what is asked for


def test_refusal_names_the_users_and_the_regions_that_have_it_as_far_as_one_may_know(world: World) -> None:
    alice, bob = world.client(uid=1000), world.client(uid=1001)
    for name, size, mode in (("a", 9000, 0o600), ("b", 5000, 0o644), ("c", 20_000, 0o640)):
        bob.say(m.Put(2, name, mode, True, size, 0, 0, bytes(size)))
    bob.say(CREATE._replace(name="d", mode=0o666))
    alice.publish("mine")
    restrict(world, "[[limits]]\nusers = [1000]\nbytes = 1")
    text = alice.say(CREATE._replace(name="more")).text
    assert text.endswith(
        ". Of all, uid 1001 has 77824, uid 1000 has 12288; among them 'c' (24576 bytes, uid 1001, pid 0), "
        "'b' (12288 bytes, uid 1001, pid 0), 'mine' (8192 bytes, uid 1000, pid 0)"
    )


def test_refusal_of_what_regions_do_not_take_names_users_alone(world: World) -> None:
    talk = world.client(uid=1000)
    talk.publish("mine")
    restrict(world, "[[limits]]\nwatches = 1")
    talk.say(m.Watch(3, ""))
    text = talk.say(m.Watch(4, "")).text
    assert text.endswith("Cancel some. Of all, uid 1000 has 1")


def test_put_that_is_refused_for_a_limit_of_regions_takes_no_addresses(world: World) -> None:
    talk = world.client(uid=1000)
    put = m.Put(3, "x", 0o600, True, 10, 0, 0, b"x" * 10)
    talk.say(put)
    restrict(world, "[[limits]]\nregions = 1")
    before, frames = world.taken(), list[bytes]()
    for _ in range(3):
        assert (
            talk.session.answer(pack(put._replace(name="y")), lambda data, _: frames.append(data)) is not None
        )
    assert (world.taken(), frames) == (before, [])
    assert talk.last().code == "quota-exceeded"
