"""Who is there: so many hosts at most, however many a member makes up, and each name has its own places."""

from __future__ import annotations

from shmhost.fleet.names import MAX_HOSTS, MAX_OF_NAME, Identities, Names

A, B = "a" * 32, "b" * 32


def made_up(count: int, start: int = 0) -> list[str]:
    return [f"{number:032x}" for number in range(start, start + count)]


def names(max_of_name: int = MAX_HOSTS) -> tuple[Names, list[str]]:
    gone: list[str] = []
    return Names(gone.append, max_of_name), gone


def test_host_over_the_bound_is_left_out_until_another_one_goes() -> None:
    hosts, gone = names()
    assert all(hosts.appear(address, "evil") for address in made_up(MAX_HOSTS))
    assert not hosts.appear(A, "a")
    assert hosts.of(A) == ""
    assert hosts.left_out == 1
    assert hosts.leave(made_up(1)[0], "evil")
    assert hosts.appear(A, "a")
    assert gone == []


def test_host_that_is_known_by_its_news_alone_gives_way() -> None:
    hosts, gone = names()
    for address in made_up(MAX_HOSTS + 10):
        assert hosts.hear(address, "evil")
    assert gone == made_up(10)
    assert hosts.appear(A, "a")
    assert gone == made_up(11)
    assert len(hosts._present) + len(hosts._heard) == MAX_HOSTS


def test_name_of_an_access_list_takes_no_places_of_others() -> None:
    hosts, gone = names(MAX_OF_NAME)
    assert sum(hosts.appear(address, "evil") for address in made_up(1000)) == MAX_OF_NAME
    assert not hosts.hear(B, "evil")
    assert hosts.appear(A, "a")
    assert gone == []


def test_place_is_free_again_after_as_many_comings_as_goings() -> None:
    hosts, _ = names(2)
    for address in made_up(1000):
        assert hosts.hear(address, "a")
        assert hosts.appear(address, "a")
        assert hosts.leave(address, "a")
        assert not hosts.leave(address, "a")
    assert (hosts._present, hosts._heard, hosts._count) == ({}, {}, {})
    assert hosts.left_out == 0


def test_address_of_another_host_is_not_taken() -> None:
    hosts, _ = names()
    assert hosts.hear(A, "a")
    assert not hosts.appear(A, "evil")
    assert hosts.appear(A, "a")
    assert not hosts.hear(A, "evil")
    assert not hosts.leave(A, "evil")
    assert hosts.of(A) == "a"


def test_what_is_no_address_takes_no_place() -> None:
    hosts, _ = names()
    assert not hosts.appear("x" * 60_000, "a")
    assert not hosts.hear("A" * 32, "a")


def test_identity_keeps_the_name_that_it_came_with() -> None:
    identities = Identities(is_by_name=True)
    assert identities.note("1" * 16, "a") == "a"
    assert identities.note("1" * 16, "evil") == "a"
    assert identities.name_of("1" * 16) == "a"
    assert identities.name_of("2" * 16) == ""


def test_identities_that_a_host_makes_up_make_none_of_another_forgotten() -> None:
    identities = Identities(is_by_name=True)
    identities.note(A[:16], "a")
    for address in made_up(1000):
        identities.note(address[-16:], "evil")
    assert identities.note(A[:16], "evil") == "a"
    assert len(identities._names) == MAX_OF_NAME + 1


def test_identities_are_so_many_at_most_without_an_access_list() -> None:
    identities = Identities(is_by_name=False)
    for address in [A, *made_up(MAX_HOSTS - 1), A, *made_up(1000, MAX_HOSTS)]:
        identities.note(address[-16:], address)
    assert len(identities._names) == sum(map(len, identities._latest.values())) == MAX_HOSTS
    assert identities.name_of(A[:16]) == A  # it was there still
