"""Policies: what their rules decide, by user, name, kind and size."""

from __future__ import annotations

import pytest

from settings_support import policy_of, refusal
from shmhost.core.peers import Peer

ROOT, ALICE, BOB, TEACHER = Peer(0, 0), Peer(1000, 70), Peer(1001, 71), Peer(1002, 72, groups=frozenset({90}))


def test_everything_is_allowed_without_rules_for_names() -> None:
    assert refusal(policy_of("[[limits]]\nregions = 1"), ALICE) == ""


def test_first_rule_that_matches_decides() -> None:
    policy = policy_of("""
        [[names]]
        title = "the teachers' models"
        groups = [90]
        prefixes = ["models/", "shared/"]
        [[names]]
        title = "models are read-only"
        prefixes = ["models/"]
        allow = false
        [[names]]
        users = [1000]
    """)
    assert refusal(policy, TEACHER) == ""
    assert refusal(policy, ALICE) == (
        "uid 1000 may not create 'models/a': the rule 'models are read-only' forbids it"
    )
    assert refusal(policy, ALICE, "other") == refusal(policy, ALICE, "models") == ""
    assert refusal(policy, BOB, "other") == "uid 1001 may not create 'other': no rule of the policy allows it"


def test_privileged_user_is_held_only_to_rules_that_name_it() -> None:
    assert refusal(policy_of("[[names]]\nallow = false"), ROOT) == ""
    assert "rule 1 in [[names]] forbids it" in refusal(
        policy_of("[[names]]\nusers = [0]\nallow = false"), ROOT
    )


@pytest.mark.parametrize(
    ("line", "changes", "text"),
    [
        (
            'kinds = ["region"]',
            {"kind": "arena"},
            "with the kind arena: rule 1 in [[names]] allows region there",
        ),
        (
            'seals = ["full"]',
            {"seal": "writer"},
            "with the seal writer: rule 1 in [[names]] allows full there",
        ),
        (
            'backends = ["memfd"]',
            {"backend": "shm"},
            "with the backend shm: rule 1 in [[names]] allows memfd",
        ),
        ('size = "1K"', {"size": 1025}, "1025 bytes are over the 1024 that rule 1 in [[names]] allows"),
        ("size = 18446744073709551616", {"size": 2**64 + 1}, "18446744073709551617 bytes are over"),
    ],
)
def test_rule_allows_what_it_lists_and_no_more(line: str, changes: dict[str, object], text: str) -> None:
    policy = policy_of(f"[[names]]\n{line}")
    allowed = {key: value - 1 for key, value in changes.items() if isinstance(value, int)}
    assert refusal(policy, ALICE, **allowed) == ""
    assert text in refusal(policy, ALICE, **changes)


@pytest.mark.parametrize("name", ["users = [1001]", "groups = [71]"])
def test_rule_is_for_a_user_or_a_group(name: str) -> None:
    policy = policy_of(f"[[names]]\n{name}")
    assert refusal(policy, BOB) == ""
    assert refusal(policy, ALICE) != ""


# --- limits


def test_first_limit_of_a_resource_decides_for_it() -> None:
    policy = policy_of("""
        [[limits]]
        title = "teachers"
        groups = [90]
        bytes = "4K"
        [[limits]]
        bytes = 5
        regions = 6
    """)
    assert policy.limits_of(1002, frozenset({90})) == {
        "bytes": (4096, "the rule 'teachers'"),
        "regions": (6, "rule 2 in [[limits]]"),
    }
    assert policy.limits_of(1000, frozenset()) == {
        "bytes": (5, "rule 2 in [[limits]]"),
        "regions": (6, "rule 2 in [[limits]]"),
    }
    assert policy.limits_of(0, frozenset()) == {}


def test_arena_is_refused_above_names_that_are_not_for_its_owner() -> None:
    """It would have all of them, and keep their users from creating any."""
    policy = policy_of("""
        [[names]]
        title = "the teachers' models"
        groups = [90]
        prefixes = ["models/", "a/b/models"]
        [[names]]
        title = "models are read-only"
        prefixes = ["models/", "a/b/models"]
        allow = false
        [[names]]
    """)
    for name in ("models", "a", "a/b"):
        assert refusal(policy, ALICE, name) == ""
        text = refusal(policy, ALICE, name, kind="arena", seal="writer")
        assert f"uid 1000 may not create the arena {name!r}, which has all names below it, '" in text
        assert "the rule 'models are read-only' forbids it" in text
        assert refusal(policy, TEACHER, name, kind="arena", seal="writer") == ""
    assert refusal(policy, ALICE, "a/b/model", kind="arena", seal="writer") == ""
