"""What lies below what, by names alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_registry import OTHER, OWNER, World

from shmhost.core.names import check_below, page
from shmprotocol.errors import AccessDenied, RegionExists

NAMES = st.lists(st.text("ab/-~", min_size=1, max_size=6), unique=True).map(sorted)


@given(NAMES, st.text("ab/-~", min_size=1, max_size=3))
def test_what_lies_below_a_name_starts_with_it_and_a_slash(names: list[str], name: str) -> None:
    below = [other for other in names if other.startswith(name + "/")]
    regions = dict.fromkeys(names, World().publish("x"))
    if not below:
        check_below(names, regions, name, OWNER)
        return
    with pytest.raises(RegionExists, match="are to be its own"):
        check_below(names, regions, name, OWNER)
    with pytest.raises(AccessDenied, match="another user has it"):
        check_below(names, regions, name, OTHER)


@given(NAMES, st.text("ab/", max_size=2), st.text("ab/", max_size=2), st.integers(0, 4))
def test_page_is_the_start_of_what_is_meant(names: list[str], prefix: str, after: str, limit: int) -> None:
    meant = [name for name in names if name.startswith(prefix) and (not after or name > after)]
    assert page(names, prefix, after, limit) == (meant[:limit], len(meant) > limit)
