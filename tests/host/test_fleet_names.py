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
    known, gone = names()
    assert all(known.appear(address, "evil") for address in made_up(MAX_HOSTS))
    assert not known.appear(A, "a")
    assert known.of(A) == ""
    assert known.left_out == 1
    assert known.leave(made_up(1)[0], "evil")
    assert known.appear(A, "a")
    assert gone == []


def test_host_that_is_known_by_its_news_alone_gives_way() -> None:
    known, gone = names()
    for address in made_up(MAX_HOSTS + 10):
        assert known.hear(address, "evil")
    assert gone == made_up(10)
    assert known.appear(A, "a")
    assert gone == made_up(11)
    assert len(known._present) + len(known._heard) == MAX_HOSTS


def test_name_of_an_access_list_takes_no_places_of_others() -> None:
    known, gone = names(MAX_OF_NAME)
    assert sum(known.appear(address, "evil") for address in made_up(1000)) == MAX_OF_NAME
    assert not known.hear(B, "evil")
    assert known.appear(A, "a")
    assert gone == []


def test_place_is_free_again_after_as_many_comings_as_goings() -> None:
    known, _ = names(2)
    for address in made_up(1000):
        assert known.hear(address, "a")
        assert known.appear(address, "a")
        assert known.leave(address, "a")
        assert not known.leave(address, "a")
    assert (known._present, known._heard, known._count) == ({}, {}, {})
    assert known.left_out == 0


def test_address_of_another_host_is_not_taken() -> None:
    known, _ = names()
    assert known.hear(A, "a")
    assert not known.appear(A, "evil")
    assert known.appear(A, "a")
    assert not known.hear(A, "evil")
    assert not known.leave(A, "evil")
    assert known.of(A) == "a"


def test_what_is_no_address_takes_no_place() -> None:
    known, _ = names()
    assert not known.appear("x" * 60_000, "a")
    assert not known.hear("A" * 32, "a")


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
