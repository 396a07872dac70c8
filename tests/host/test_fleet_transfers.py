"""Transfers and announcements: which chunk is asked of whom, and what is believed of what others say."""

from __future__ import annotations

import math

import pytest

from shmhost.core.window import STEP
from shmhost.fleet import announcements
from shmhost.fleet.announcements import PAGE_NAMES, Announcement, Known, announcement_of, gone_of, page_of
from shmhost.fleet.bandwidth import Bandwidth
from shmhost.fleet.hashing import LARGE, LARGE_FROM, SMALL, chunk_count, leaf, part, root_of, split
from shmhost.fleet.transfers import MAX_SOURCES, Credits, Step, Transfer
from shmhost.fleet.turns import HOLD_S, LONG_PACE, LONG_S, TURNS_FROM, Turns
from shmprotocol.errors import RemoteProtocolError
from shmprotocol.kernel.constants import GIB, MIB

GOOD = Announcement(
    *("models/x", 3, 0x550000200000, 5000, 1, 4900, 0, 0, 0x550000200000 + 4096 + 4900, 100, 1, 0o600, "me"),
    b"t" * 32,
)


def transfer(chunks: int, *sources: str, limit: int = 2) -> Transfer:
    # The seed puts "a" before "b".
    size = (chunks - 1) * MIB + 1
    result = Transfer(size, [leaf(bytes([n])) for n in range(chunks)], Credits(limit), seed="8")
    for source in sources:
        result.add(source)
    return result


def arrive(moving: Transfer, step: Step) -> bool:
    return moving.arrive(step, part(moving.size, step.number)[1], leaf(bytes([step.number])))


@pytest.mark.parametrize(
    ("size", "count", "last"),
    [(1, 1, 1), (SMALL, 1, SMALL), (SMALL + 1, 2, 1), (LARGE_FROM, 256, LARGE), (LARGE_FROM + 1, 257, 1)],
)
def test_chunks_cover_a_payload(size: int, count: int, last: int) -> None:
    assert chunk_count(size) == count
    assert part(size, count - 1)[1] == last
    assert sum(part(size, number)[1] for number in range(count)) == size


def test_leaves_are_taken_only_if_they_have_the_announced_hash() -> None:
    leaves = [leaf(b"a"), leaf(b"b")]
    root, data = root_of(SMALL + 1, leaves), b"".join(leaves)
    assert split(SMALL + 1, root, data) == leaves
    assert split(SMALL + 2, root, data) is None
    assert split(SMALL + 1, root, data[:-1]) is None
    assert split(SMALL + 1, root, data[::-1]) is None


def test_chunks_are_asked_of_all_sources_within_their_credit() -> None:
    moving = transfer(6, "a", "b")
    steps = [moving.next() for _ in range(5)]
    assert [step.source for step in steps if step is not None] == ["a", "b", "a", "b"]
    assert steps[4] is None
    assert steps[0] is not None
    assert arrive(moving, steps[0])
    assert moving.next() == Step(4, "a")


def test_credit_is_shared_by_transfers_and_comes_back() -> None:
    shared = Credits(1)
    first, second = Transfer(1, [leaf(b"")], shared), Transfer(1, [leaf(b"")], shared)
    first.add("a")
    second.add("a")
    step = first.next()
    assert step is not None
    assert second.next() is None
    first.fail(step)
    assert second.next() == Step(0, "a")


def test_wrong_chunk_is_asked_of_another_source_and_never_of_the_same() -> None:
    moving = transfer(1, "a", "b")
    step = moving.next()
    assert step == Step(0, "a")
    assert not moving.arrive(step, 1, leaf(b"wrong"))
    moving.add("a")
    assert moving.next() == Step(0, "b")


@pytest.mark.parametrize("size", [0, 2])
def test_chunk_of_another_size_is_wrong(size: int) -> None:
    moving = transfer(1, "a")
    step = moving.next()
    assert step is not None
    assert not moving.arrive(step, size, leaf(b"\0"))
    assert not moving.is_whole


def test_transfer_is_whole_when_each_chunk_is_here_once() -> None:
    moving = transfer(3, "a", limit=1)
    count = 0
    while step := moving.next():
        count += 1
        if count == 2:
            moving.fail(step)
        else:
            assert arrive(moving, step)
    assert (count, moving.is_whole, moving.credits.used) == (4, True, {})


def test_announcement_is_what_was_sent() -> None:
    assert announcement_of(tuple(GOOD)) == GOOD


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", "../x"),
        ("name", ""),
        ("name", "x" * 256),
        ("generation", 0),
        ("generation", 2**53),
        ("address", STEP + 4096),
        ("address", 0),
        ("address", 2**47 + STEP),
        ("room", 0),
        ("room", 2**47),
        ("kind", 0),
        ("data_size", -1),
        ("root", 2**63),
        ("metadata_size", 1.0),
        ("mode", 0o1000),
        ("user", "u" * 65),
        ("tree", b"t" * 31),
        ("tree", "t" * 32),
        ("is_early", 1),
    ],
)
def test_announcement_with_a_wrong_field_is_refused(field: str, wrong: object) -> None:
    with pytest.raises(RemoteProtocolError):
        announcement_of(tuple(GOOD._replace(**{field: wrong})))


@pytest.mark.parametrize("values", [(), ("x",), ("x", -1), (1, 1), ("a//b", 1)])
def test_end_of_a_region_with_wrong_fields_is_refused(values: tuple[object, ...]) -> None:
    with pytest.raises(RemoteProtocolError):
        gone_of(values)


@pytest.mark.parametrize(
    "values",
    [
        (),
        (0, ""),
        (0, "", None),
        (0, "", (1,)),
        (0, "", ((),)),
        (0, "", ((1,),)),
        (0, "a", ()),
        (-1, "", ()),
        (0, "", (("new",),) * (PAGE_NAMES + 1)),
    ],
)
def test_catalogue_with_wrong_fields_or_without_end_is_refused(values: tuple[object, ...]) -> None:
    with pytest.raises(RemoteProtocolError):
        page_of(values, "a")


def test_news_are_taken_in_their_order_and_a_gap_is_noticed() -> None:
    record = Known()
    assert not record.hear("p", 1)
    record.begin("p", 4)
    assert record.hear("p", 5)
    assert not record.hear("p", 5)
    assert not record.hear("p", 7)
    assert record.is_behind


@pytest.mark.parametrize(("address", "news"), [("p", 5), ("another process", 4)])
def test_news_that_were_missed_are_noticed_by_the_number_of_the_latest(address: str, news: int) -> None:
    record = Known()
    record.begin("p", 4)
    record.note("p", 4)
    assert not record.is_behind
    record.note(address, news)
    assert record.is_behind


def test_older_generation_is_never_taken() -> None:
    record = Known()
    assert record.announce(GOOD)
    assert not record.announce(GOOD._replace(generation=2))
    assert not record.end("models/x", 2)
    assert record.end("models/x", 3)


EARLY = GOOD._replace(tree=b"e" * 32, is_early=True)


def test_hash_of_what_was_announced_early_takes_its_place_and_never_the_other_way_round() -> None:
    record = Known()
    assert record.announce(EARLY)
    assert record.announce(GOOD)
    record.begin("p", 1)
    assert not record.announce(EARLY)  # an older page
    assert record.finish() == []
    assert record.names["models/x"] == GOOD
    assert record.announce(EARLY._replace(generation=4))


def test_early_announcement_is_confirmed_by_the_same_with_its_hash_only() -> None:
    assert GOOD.confirms(EARLY)
    assert GOOD._replace(mode=0o400).confirms(EARLY)
    assert not EARLY.confirms(EARLY)
    assert not GOOD.confirms(GOOD)
    for change in ({"room": 4999}, {"generation": 4}, {"address": 2 * GOOD.address}, {"root": 1}):
        assert not GOOD._replace(**change).confirms(EARLY)


def test_name_that_ends_while_a_catalogue_is_read_does_not_come_back_by_an_older_page() -> None:
    record = Known()
    record.begin("p", 1)
    assert record.hear("p", 2)
    assert not record.end("models/x", GOOD.generation)  # its page has not come yet
    assert not record.announce(GOOD)
    assert record.announce(GOOD._replace(generation=GOOD.generation + 1))
    assert record.finish() == []
    assert record.end("models/x", GOOD.generation + 1)
    assert record.announce(GOOD)


def test_latest_copies_of_a_host_are_known_after_however_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcements, "MAX_NAMES", 2)
    holders = announcements.Holders()
    for tree in (b"1", b"2", b"1", b"3"):
        holders.note("p", tree)
    assert [tree for tree in (b"1", b"2", b"3") if holders.has("p", tree)] == [b"1", b"3"]
    holders.leave("p")
    assert not holders.has("p", b"3")


def test_names_that_are_missing_in_all_that_a_host_has_are_gone() -> None:
    record = Known()
    record.announce(GOOD)
    record.announce(GOOD._replace(name="models/y"))
    record.begin("p", 1)
    record.announce(GOOD)
    assert record.finish() == ["models/y"]
    assert list(record.names) == ["models/x"]


def test_chunk_is_asked_of_another_source_when_the_first_does_not_send_it() -> None:
    moving = transfer(1, "a", "b")
    step = moving.next()
    assert step == Step(0, "a")
    moving.fail(step)
    assert moving.next() == Step(0, "b")


def test_bandwidth_is_kept_over_a_second_and_is_saved_up_for_a_moment_only() -> None:
    limit = Bandwidth(10 * MIB, None)
    now_s = start_s = 1000.0
    for number in range(21):
        now_s += limit.take(f"peer {number}", MIB, now_s, math.inf)
    assert now_s - start_s == pytest.approx(1.9)  # the first has its burst, and the last is to be paid off
    assert limit.waited_s == pytest.approx(1.9)
    assert limit.take("a", MIB, now_s + 3600, math.inf) == 0.0
    assert limit.take("a", MIB, now_s + 3600, math.inf) == 0.0
    assert limit.take("a", MIB, now_s + 3600, math.inf) == pytest.approx(0.1)


def test_bandwidth_of_each_peer_is_its_own_and_a_chunk_that_would_wait_too_long_is_not_counted() -> None:
    limit = Bandwidth(None, MIB)
    assert limit.take("a", 4 * MIB, 0.0, 1.0) == 0.0
    waits = [limit.take("a", MIB, 0.0, 1.0) for _ in range(3)]
    assert waits == [pytest.approx(4.0)] * 3
    assert limit.take("b", MIB, 0.0, 1.0) == 0.0
    limit.forget("a")
    assert limit.take("a", MIB, 0.0, 1.0) == 0.0


def test_large_region_goes_to_two_hosts_at_a_time() -> None:
    turns = Turns()
    assert [turns.admit(b"t", GIB, asker, 0.0) for asker in "abca"] == [True, True, False, True]
    assert turns.admit(b"other", GIB, "c", 0.0)
    turns.end(b"t", "a")
    assert turns.admit(b"t", GIB, "c", 0.0)
    assert not turns.admit(b"t", GIB, "a", HOLD_S)
    assert turns.admit(b"t", GIB, "a", HOLD_S + 0.1)  # the others have asked for nothing since


def test_slow_hosts_make_room_for_others_when_that_takes_long() -> None:
    turns, askers, admitted_s = Turns(), ["a", "b"], list[int]()
    for now_s in range(600):
        assert all(turns.admit(b"t", GIB, asker, now_s) for asker in askers)
        if turns.admit(b"t", GIB, f"host {now_s}", now_s):
            askers.append(f"host {now_s}")
            admitted_s.append(now_s)
    long_s = math.ceil(LONG_S + GIB / LONG_PACE)
    assert admitted_s == [long_s, 2 * long_s, 4 * long_s]


def test_large_region_is_asked_for_with_one_chunk_until_a_source_has_sent_one() -> None:
    size = TURNS_FROM + MIB
    moving = Transfer(size, [leaf(b"\0" * MIB)] * 9, Credits(8))
    moving.add("a")
    step = moving.next()
    assert step == Step(0, "a")
    assert moving.next() is None
    assert moving.arrive(step, MIB, leaf(b"\0" * MIB))
    assert [moving.next() for _ in range(8)] == [Step(number, "a") for number in range(1, 9)]


def early(chunks: int, *sources: str) -> tuple[Transfer, list[bytes]]:
    """Return a transfer whose leaves are not known, and these."""
    moving = transfer(chunks, *sources)
    assert moving.leaves is not None
    leaves, moving.leaves = moving.leaves, None
    return moving, leaves


def test_chunks_that_come_before_their_hashes_are_proven_by_that_of_all() -> None:
    moving, leaves = early(3, "a", "b")
    while step := moving.next():
        assert arrive(moving, step)
    assert (moving.is_here, moving.is_whole) == (True, False)
    assert not moving.prove(b"another tree")
    assert not moving.is_whole
    assert moving.prove(root_of(moving.size, leaves))
    assert (moving.is_whole, moving.leaves) == (True, leaves)


def test_wrong_chunk_that_came_before_its_hash_is_asked_of_another_source() -> None:
    moving, leaves = early(3, "a")
    for number in range(2):
        step = moving.next()
        assert step == Step(number, "a")
        assert moving.arrive(step, MIB, leaf(b"wrong") if number else leaves[0])
    assert moving.compare(leaves) == {"a"}
    assert moving.bytes_here == MIB
    moving.refresh({"a", "b"}, 0.0)
    steps = {step for _ in range(3) if (step := moving.next()) is not None}
    assert steps == {Step(1, "b"), Step(2, "b")}
    assert all(arrive(moving, step) for step in steps)
    assert moving.is_whole
    assert moving.credits.used == {}


def test_only_chunk_is_proven_without_a_question_for_its_hash() -> None:
    moving, leaves = early(1, "a", "b")
    for source, text in (("a", b"wrong"), ("b", b"\0")):
        step = moving.next()
        assert step == Step(0, source)
        assert moving.arrive(step, 1, leaf(text))
        if not moving.prove(root_of(1, leaves)):
            assert moving.drop([*moving.unproven]) == {"a"}
    assert moving.is_whole


def test_turns_of_a_payload_go_on_under_its_hash() -> None:
    turns = Turns()
    assert [turns.admit(b"early", GIB, asker, 0.0) for asker in "ab"] == [True, True]
    turns.rename(b"early", b"tree")
    assert [turns.admit(b"tree", GIB, asker, 1.0) for asker in "cab"] == [False, True, True]
    turns.end(b"tree", "a")
    assert turns.admit(b"tree", GIB, "c", 1.0)


def test_busy_source_is_asked_again_after_a_while() -> None:
    moving = transfer(2, "a")
    step = moving.next()
    assert step is not None
    moving.fail(step)
    moving.rest("a", 5.0)
    moving.refresh({"a"}, 4.0)
    assert moving.next() is None
    moving.refresh({"a"}, 5.0)
    assert moving.next() == Step(0, "a")


def test_transfer_has_a_few_sources_and_each_host_has_others() -> None:
    names = {f"{number:032x}" for number in range(100)}
    chosen = []
    for seed in "ab":
        moving = Transfer(1, [leaf(b"")], Credits(8), seed=seed)
        moving.refresh(names, 0.0)
        chosen.append(moving.sources)
    assert [len(each) for each in chosen] == [MAX_SOURCES] * 2
    assert chosen[0] != chosen[1]
