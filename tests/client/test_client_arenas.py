"""Arenas by the sync client: an owner, and readers in the same and in other processes."""

from __future__ import annotations

import copy
import gc
import pickle
from itertools import product
from typing import Any

import numpy as np
import pytest

import shmclient
from arena_support import CAMERA_SIZE
from shmclient import Arena, ArenaFull, ArenaView
from shmprotocol.wire.names import check_name
from support import WatchedHost, as_nobody, mapped_addresses, needs_root, wait_until

VALUES: list[Any] = [
    b"bytes",
    b"",
    bytearray(b"array of bytes"),
    np.arange(12, dtype="f4").reshape(3, 4),
    np.asfortranarray(np.arange(12).reshape(3, 4)),
    np.arange(24)[::2],
    np.zeros((0, 3)),
    np.float64(1.5),
    np.array(["one", "three"]),
    np.array("2026-11-26", dtype="M8[D]"),
    np.array([(1, 2.5)], dtype=[("id", "i4"), ("x", "f8")]),
    np.ones(100_000),
]


@pytest.mark.parametrize("is_open", [False, True])
def test_a_name_exists_as_a_value(arena: Arena, other: shmclient.Client, is_open: bool) -> None:
    arena["front"] = b"1"
    if is_open:
        other.get("camera/front")
    assert "camera/front" in other
    assert other.exists("camera")
    assert not other.exists("camera/left")
    assert "elsewhere/front" not in other
    del arena["front"]
    assert not other.exists("camera/front")


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_value_comes_back_as_a_region_would_return_it(
    arena: Arena, other: shmclient.Client, value: Any
) -> None:
    for _ in range(2):  # the second time by the plan that the first one left
        arena["front"] = value
        other.put("region", value).close()
        expected, got = other.get("region"), other.get("camera/front")
        assert type(got) is type(expected)
        if isinstance(expected, memoryview):
            assert (got.tobytes(), got.format, got.readonly) == (expected.tobytes(), "B", True)
        else:
            np.testing.assert_array_equal(got, expected)
            assert (got.dtype, got.shape, got.flags.f_contiguous) == (
                expected.dtype,
                expected.shape,
                expected.flags.f_contiguous,
            )
            assert not got.flags.writeable


def test_dict_comes_back_as_a_dict(arena: Arena, other: shmclient.Client) -> None:
    arena["pair"] = {"pixels": np.arange(5), "label": b"cat"}
    got = other.get("camera/pair")
    assert (got["pixels"].tolist(), bytes(got["label"])) == ([0, 1, 2, 3, 4], b"cat")
    arena["many"] = {f"k{i}": np.full(3, i) for i in range(200)}
    assert other.get("camera/many")["k150"].tolist() == [150, 150, 150]


def test_value_that_is_held_stays_when_it_is_replaced_a_thousand_times(
    arena: Arena, other: shmclient.Client
) -> None:
    arena["front"] = np.full(1000, -1)
    held = other.get("camera/front")
    for number in range(1000):
        arena["front"] = np.full(1000, number)
    assert (held == -1).all()
    assert (other.get("camera/front") == 999).all()


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")  # says NumPy 2.5
def test_get_again_is_a_view_of_what_the_first_get_made(arena: Arena, other: shmclient.Client) -> None:
    """Also of the first value of its kind, which Python decodes."""
    arena["front"] = np.arange(6.0)
    first, second = other.get("camera/front"), other.get("camera/front")
    assert second is not first
    assert second.base is first.base
    first.shape = (2, 3)
    assert (second.shape, other.get("camera/front").shape) == ((6,), (6,))


def test_memory_of_replaced_values_is_used_again(arena: Arena) -> None:
    for number in range(100):
        arena["front"] = np.full(1 << 17, number)  # a MiB, in an arena of eight


def test_mapping_has_what_was_put_and_not_removed(arena: Arena, other: shmclient.Client) -> None:
    arena.update({"a": b"1", "b/c": b"2", "d": b"3"})
    del arena["d"]
    view = other.open_arena("camera")
    assert (sorted(view), len(view), "a" in view, "d" in view) == (["a", "b/c"], 2, True, False)
    assert (sorted(arena), len(arena), "a" in arena, 5 in arena) == (["a", "b/c"], 2, True, False)
    assert {name: bytes(value) for name, value in view.items()} == {"a": b"1", "b/c": b"2"}
    assert bytes(other.get("camera/b/c")) == b"2"
    assert view.get("d") is None
    with pytest.raises(KeyError):
        view["d"]
    with pytest.raises(KeyError):
        del arena["d"]
    with pytest.raises(shmclient.RegionNotFound, match="'camera' has no value 'd'"):
        other.get("camera/d")


def test_values_come_back_after_they_were_removed(arena: Arena, other: shmclient.Client) -> None:
    for number in range(100):
        arena["x"] = b"%d" % number
        assert bytes(other.get("camera/x")) == b"%d" % number
        arena.remove("x")
        with pytest.raises(shmclient.RegionNotFound):
            other.get("camera/x")


def test_names_that_went_make_room_for_others(shm: shmclient.Client, other: shmclient.Client) -> None:
    with shm.arena("few", 1 << 20, names=8) as arena:
        for number in range(1000):
            name = f"{number}-" + "n" * (number % 60)
            arena[name] = b"%d" % number
            assert bytes(other.get(f"few/{name}")) == b"%d" % number
            del arena[name]
        for number in range(8):
            arena[str(number)] = b""
        with pytest.raises(ArenaFull, match="no name left for 'one more'"):
            arena["one more"] = b""
        arena["7"] = b"still"
        assert bytes(other.get("few/7")) == b"still"


LONG: list[Any] = [bytes(100_000), {"a": bytes(100_000)}, memoryview(bytes(100_000)).cast("i")]


@pytest.mark.parametrize("value", LONG, ids=["bytes", "dict", "view"])
def test_error_that_is_kept_keeps_no_block_and_no_mapping(
    host: WatchedHost, shm: shmclient.Client, value: Any
) -> None:
    """It has the frames that it was raised in, with their locals."""
    before, addresses = host.counts(), mapped_addresses()
    arena = shm.arena("few", 1 << 20, names=1, keep=False)
    arena["first"] = b"1"
    used = arena._state()[1]
    with pytest.raises(ArenaFull) as put:
        arena["second"] = value
    with pytest.raises(ArenaFull) as lent, arena.loan("second", 100_000):
        pass
    assert arena._state()[1] < used + 1_000  # a description may stay, for others like it
    arena.close()
    assert (put.tb is None, lent.tb is None) == (False, False)
    wait_until(lambda: mapped_addresses() == addresses)
    wait_until(lambda: host.is_back_at(before))


def test_put_returns_generations_that_grow(arena: Arena, other: shmclient.Client) -> None:
    first, second = arena.put("a", b"1"), arena.put("b", b"2")
    value = other.open("camera/a")
    assert (value.generation, second > first, value.is_current()) == (first, True, True)
    third = arena.put("a", b"3")
    assert (third > second, value.is_current(), bytes(value.data)) == (True, False, b"1")


@pytest.mark.parametrize("name", ["", "/", "a//b", "..", "a\n", "n" * 255])
def test_name_is_checked(arena: Arena, name: str) -> None:
    with pytest.raises(shmclient.InvalidArgument):
        arena[name] = b"1"
    assert len(arena) == 0


def test_names_are_those_of_regions_and_no_others(arena: Arena) -> None:
    names = [
        "".join(letters) for size in range(5) for letters in product("a./\n\x7f\u00e9\ud800", repeat=size)
    ]
    accepted = set()
    for name in names:
        try:
            arena[name] = b""
        except (shmclient.InvalidArgument, UnicodeEncodeError):
            continue
        accepted.add(name)
        del arena[name]
    assert accepted == {name for name in names if is_name(f"camera/{name}")}
    assert len(accepted) > 50


def is_name(name: str) -> bool:
    try:
        return bool(check_name(name))
    except shmclient.InvalidArgument:
        return False


@pytest.mark.parametrize("size", [60, 61])
@pytest.mark.parametrize("letter", ["n", "\u00e9"])
def test_names_of_an_arena_whose_name_is_long(shm: shmclient.Client, letter: str, size: int) -> None:
    with shm.arena("\u00e9" * 97, 1 << 20, names=16) as arena:  # 194 bytes, and a slash
        name = letter * (size if letter == "n" else size // 2) + ("n" if letter != "n" and size % 2 else "")
        if size == 60:
            arena[name] = b"1"
            assert bytes(shm.get(f"{arena.name}/{name}")) == b"1"
        else:
            with pytest.raises(shmclient.InvalidArgument, match="255 bytes"):
                arena[name] = b"1"


def test_longest_name(arena: Arena, other: shmclient.Client) -> None:
    name = "n" * (255 - len("camera/"))
    arena[name] = b"1"
    assert (bytes(other.get(f"camera/{name}")), list(other.open_arena("camera"))) == (b"1", [name])


@pytest.mark.parametrize(
    "value", [3j, {1}, object(), np.array([object()])], ids=["complex", "set", "any", "objects"]
)
def test_what_cannot_be_stored_is_refused(arena: Arena, value: object) -> None:
    with pytest.raises(TypeError, match=r"'x'"):
        arena["x"] = value
    assert len(arena) == 0


def test_loan_is_published_at_the_end_of_its_block(arena: Arena, other: shmclient.Client) -> None:
    with arena.loan("image", (4, 4), "f4") as image:
        image[:] = 7
        assert "image" not in arena
    assert other.get("camera/image").tolist() == [[7] * 4] * 4
    with arena.loan("raw", 5) as raw:
        raw[:] = b"hello"
    assert bytes(other.get("camera/raw")) == b"hello"


def test_loan_is_undone_by_an_exception(arena: Arena, other: shmclient.Client) -> None:
    arena["image"] = b"before"
    used = arena._state()[1]
    for _ in range(100):
        with pytest.raises(ZeroDivisionError), arena.loan("image", 1 << 20):
            raise ZeroDivisionError
    assert (bytes(other.get("camera/image")), arena._state()[1]) == (b"before", used)


def test_put_many_puts_all(arena: Arena, other: shmclient.Client) -> None:
    arena.put_many({f"obj/{i}": np.full(4, i) for i in range(500)})
    view = other.open_arena("camera")
    assert [view[f"obj/{i}"].tolist() for i in range(500)] == [[i] * 4 for i in range(500)]
    with pytest.raises(TypeError):
        arena.put_many([("a", b"1"), ("b", {5}), ("c", b"3")])
    assert ("a" in arena, "c" in arena) == (True, False)


def test_arena_grows_up_to_its_max_size(shm: shmclient.Client, other: shmclient.Client) -> None:
    with shm.arena("growing", 1 << 20, max_size=16 << 20, names=100) as arena:
        arena["first"] = b"1"
        assert bytes(other.get("growing/first")) == b"1"
        for number in range(12):
            arena[f"n{number}"] = np.full(1 << 17, number)
        assert arena.size > 12 << 20
        assert all((other.get(f"growing/n{number}") == number).all() for number in range(12))
        with pytest.raises(ArenaFull):
            arena["more"] = bytes(8 << 20)
        arena.grow(16 << 20)
        assert arena.size == 16 << 20
        with pytest.raises(shmclient.InvalidArgument):
            arena.grow((16 << 20) + 1)


def test_region_cannot_be_below_an_arena_nor_an_arena_above_one(shm: shmclient.Client) -> None:
    with shm.arena("camera", CAMERA_SIZE), pytest.raises(shmclient.RegionExists):
        shm.put("camera/x", b"1")
    shm.put("a/b", b"1").close()
    with pytest.raises(shmclient.RegionExists):
        shm.arena("a", CAMERA_SIZE)


def test_open_arena_of_a_region_is_refused(shm: shmclient.Client) -> None:
    shm.put("x", b"1").close()
    with pytest.raises(shmclient.InvalidArgument, match="not an arena"):
        shm.open_arena("x")
    with pytest.raises(shmclient.RegionNotFound):
        shm.open_arena("y")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"size": 0}, shmclient.InvalidArgument),
        ({"size": 1.5}, shmclient.InvalidArgument),
        ({"size": 4096}, shmclient.InvalidArgument),
        ({"size": CAMERA_SIZE, "max_size": 4096}, shmclient.InvalidArgument),
        ({"size": CAMERA_SIZE, "names": 0}, shmclient.InvalidArgument),
        ({"size": CAMERA_SIZE, "names": 1 << 30}, shmclient.InvalidArgument),
        ({"size": CAMERA_SIZE, "mode": 0o1777}, shmclient.InvalidArgument),
        ({"size": 1 << 50}, shmclient.QuotaExceeded),
    ],
)
def test_what_no_arena_can_be_is_refused(
    host: WatchedHost, shm: shmclient.Client, arguments: dict[str, Any], error: type[Exception]
) -> None:
    before = host.counts()
    with pytest.raises(error):
        shm.arena("camera", **arguments)
    gc.collect()
    wait_until(lambda: host.is_back_at(before))
    shm.arena("camera", CAMERA_SIZE).close()


@needs_root
def test_other_users_read_only_with_the_right(open_host: WatchedHost) -> None:
    with (
        shmclient.connect(open_host.socket_path) as shm,
        shm.arena("open", CAMERA_SIZE, mode=0o644) as arena,
        shm.arena("shut", CAMERA_SIZE) as shut,
    ):
        arena["x"] = shut["x"] = b"1"

        def read() -> None:
            with shmclient.connect(open_host.socket_path) as client:
                assert bytes(client.get("open/x")) == b"1"
                with pytest.raises(shmclient.RegionNotFound):
                    client.get("shut/x")

        assert as_nobody(read) == 0


def test_chmod_takes_the_right_away(shm: shmclient.Client, other: shmclient.Client, arena: Arena) -> None:
    arena["x"] = b"1"
    assert bytes(other.get("camera/x")) == b"1"
    shm.chmod("camera", 0o000)
    shm.chmod("camera", 0o600)
    assert bytes(other.get("camera/x")) == b"1"


def test_owner_is_not_copied_or_pickled_nor_a_value_pickled(arena: Arena, other: shmclient.Client) -> None:
    arena["x"] = b"1"
    for thing in (arena, other.open("camera/x")):
        with pytest.raises(TypeError, match="pass its name"):
            pickle.dumps(thing)
    with pytest.raises(TypeError):
        copy.deepcopy(arena)


def test_classes_have_no_constructors() -> None:
    for cls in (Arena, ArenaView, shmclient.ArenaValue):
        with pytest.raises(TypeError, match=r"client\.|use "):
            cls()
