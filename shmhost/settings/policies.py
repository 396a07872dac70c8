"""Policy files: TOML in, a Policy out, or all that is wrong with it, by lines.

`core.policy` says what the rules mean, `docs/operating.md` has examples.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable, Sequence
from typing import TypeVar

from shmhost.core.policy import LimitRule, NameRule, People, Policy
from shmhost.core.shares import UNLIMITED
from shmhost.settings.policy_tables import Problem, Table, tables_of
from shmprotocol.errors import InvalidArgument
from shmprotocol.wire.names import BACKENDS, SEALS, check_part

MAX_FILE = 1 << 20  # bytes: some 10,000 rules
MAX_ID = 2**32 - 2  # of users and groups
SIZES = ("bytes", "addresses", "queued")
COUNTS: tuple[str, ...] = (
    "regions",
    "arenas",
    "leases",
    "connections",
    "descriptors",
    "lines",
    "watches",
    "unread",
    "unread_by_owners",
    "news",
    "stored",
)
_PEOPLE = ("title", "users", "groups")
KEYS: dict[str, tuple[str, ...]] = {
    "names": (*_PEOPLE, "prefixes", "allow", "kinds", "seals", "backends", "size", "at_address"),
    "limits": (*_PEOPLE, *SIZES, *COUNTS),
}

T = TypeVar("T")


def privileged_uids() -> frozenset[int]:
    """Return the users that are held to no share: they could end a host of this process anyway."""
    return frozenset({0, os.geteuid()})


def read_policy(path: str, privileged: frozenset[int]) -> Policy:
    """Return the policy of a file. InvalidArgument: all that is wrong with it, each with its line."""
    try:
        # Not to wait for a writer of a FIFO.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), encoding="utf-8") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE:
                raise InvalidArgument(f"the policy {path} is not a file of at most {MAX_FILE} bytes")
            if status.st_mode & stat.S_IWOTH:
                raise InvalidArgument(f"everybody may write the policy {path}: chmod o-w {path}")
            text = stream.read(MAX_FILE)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"the policy {path} cannot be read: {error}") from None
    return parse_policy(text, path, privileged)


def parse_policy(text: str, path: str, privileged: frozenset[int]) -> Policy:
    """Return the policy in a text; `path` is for messages. InvalidArgument as for `read_policy`."""
    tables, problems = tables_of(text, KEYS)
    names = [_tried(_name_rule, table, problems) for table in tables if table.kind == "names"]
    limits = [_tried(_limit_rule, table, problems) for table in tables if table.kind == "limits"]
    if not problems:
        lines = {kind: [table.line for table in tables if table.kind == kind] for kind in KEYS}
        problems += _idle([*filter(None, names)], lines["names"], _covers_names)
        problems += _idle([*filter(None, limits)], lines["limits"], _covers_limits)
    if problems:
        problems.sort(key=lambda problem: problem.line)
        raise InvalidArgument("\n".join([f"{path}, line {each.line}: {each}" for each in problems]))
    return Policy(tuple(filter(None, names)), tuple(filter(None, limits)), privileged)


def _tried(make: Callable[[Table], T], table: Table, problems: list[Problem]) -> T | None:
    try:
        return make(table)
    except Problem as problem:
        problems.append(problem)
        return None


def _name_rule(table: Table) -> NameRule:
    prefixes = table.items("prefixes", ("",))
    for prefix in prefixes:
        try:
            check_part("a prefix", prefix)
        except InvalidArgument as error:
            raise table.problem("prefixes", str(error)) from None
    if not prefixes:
        raise table.problem("prefixes", 'prefixes has at least one, such as "models/"; "" is for all names')
    return NameRule(
        table.words(),
        _people(table),
        prefixes,
        table.flag("allow", True),
        table.choices("kinds", ("region", "arena")),
        table.choices("seals", tuple([seal.value for seal in SEALS])),
        table.choices("backends", tuple([backend.value for backend in BACKENDS])),
        table.number_of("size", UNLIMITED, is_size=True),
        table.flag("at_address", True),
    )


def _limit_rule(table: Table) -> LimitRule:
    limits = {key: table.number_of(key, 0, is_size=True) for key in SIZES if key in table.values}
    limits |= {key: table.number_of(key, 0) for key in COUNTS if key in table.values}
    if not limits:
        raise table.problem("", f"no limit is in [[limits]]: use {', '.join((*SIZES, *COUNTS))}")
    return LimitRule(table.words(), _people(table), limits)


def _people(table: Table) -> People:
    for key in ("users", "groups"):
        if key in table.values and not table.items(key):
            raise table.problem(key, f"{key} has at least one; without this line, the rule is for everybody")
    return People(
        frozenset([_number(table, "users", user) for user in table.items("users")]),
        frozenset([_number(table, "groups", group) for group in table.items("groups")]),
    )


def _number(table: Table, key: str, name: str | int) -> int:
    if isinstance(name, int):
        if 0 <= name <= MAX_ID:
            return name
        raise table.problem(key, f"{key}: {name} is not a number from 0 to {MAX_ID}")
    try:
        return pwd.getpwnam(name).pw_uid if key == "users" else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        noun = "user" if key == "users" else "group"
        raise table.problem(key, f"there is no {noun} {name!r:.60} on this machine: use a number") from None


def _idle(rules: Sequence[T], lines: Sequence[int], covers: Callable[[T, T], bool]) -> list[Problem]:
    """Return a problem for each rule that never decides, as an earlier one comes first."""
    problems = []
    for index, rule in enumerate(rules):
        for earlier, line in zip(rules[:index], lines, strict=False):
            if covers(earlier, rule):
                text = f"this rule never decides: the one in line {line} comes first for all of it"
                problems.append(Problem(lines[index], text))
                break
    return problems


def _covers_names(earlier: NameRule, later: NameRule) -> bool:
    is_below = all(prefix.startswith(earlier.prefixes) for prefix in later.prefixes)
    return is_below and _covers(earlier.people, later.people)


def _covers_limits(earlier: LimitRule, later: LimitRule) -> bool:
    return set(later.limits) <= set(earlier.limits) and _covers(earlier.people, later.people)


def _covers(earlier: People, later: People) -> bool:
    """Whether a rule is for all users of a later one, as far as their numbers tell."""
    if not earlier.uids and not earlier.gids:
        return 0 not in later.uids  # a privileged user, whom only the later rule is for
    return bool(later.uids or later.gids) and later.uids <= earlier.uids and later.gids <= earlier.gids
