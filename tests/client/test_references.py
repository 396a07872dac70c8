"""Regions, arenas and values cross to other processes as references, and are opened there."""

from __future__ import annotations

import concurrent.futures
import copy
import multiprocessing
import os
import pickle
from collections.abc import Iterator
from typing import Any

import joblib
import numpy as np
import pytest

import shmclient
import shmclient.aio
from reference_support import forget_references
from support import WatchedHost, in_child

KINDS = ["spawn", "fork", "forkserver"]


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """Nothing on its way is kept behind a test, nor the client that opened it here."""
    yield
    forget_references()


def address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def seen(value: Any) -> tuple[str, int, Any]:
    """Return what a worker sees: the type, the address and the sum or the text of a value."""
    if isinstance(value, shmclient.Region):
        return "Region", value.address, (value.name, value.generation, float(value.value().sum()))
    if isinstance(value, shmclient.ArenaView):
        return "ArenaView", 0, float(value["x"].sum())
    if isinstance(value, memoryview):
        return "memoryview", address(np.asarray(value)), bytes(value)
    return type(value).__name__, address(value), float(value.sum())


def seen_all(values: Any) -> list[tuple[str, int, Any]]:
    return [seen(value) for value in (values.values() if isinstance(values, dict) else values)]


@pytest.fixture(params=KINDS)
def pool(request: pytest.FixtureRequest) -> Iterator[Any]:
    with multiprocessing.get_context(request.param).Pool(1) as pool:
        yield pool
        pool.close()
        pool.join()


@pytest.fixture
def numbers(shm: shmclient.Client) -> Any:
    """An array of a region."""
    shm.put("numbers", np.arange(24.0).reshape(4, 6)).close()
    return shm.get("numbers")


def test_region_is_opened_by_a_worker_at_its_address(pool: Any, shm: shmclient.Client) -> None:
    with shm.put("x", np.arange(10.0)) as region:
        assert pool.apply(seen, (region,)) == ("Region", region.address, ("x", 1, 45.0))


def test_values_are_opened_by_a_worker_in_place(pool: Any, numbers: Any) -> None:
    values = [numbers, numbers[1:3, ::2], numbers.T, numbers[::-1], memoryview(numbers)[1:2]]
    got = pool.apply(seen_all, (shmclient.reference(values),))
    assert [where for _, where, _ in got] == [address(np.asarray(value)) for value in values]
    sums = [float(np.sum(value)) for value in values[:4]]
    assert [content for _, _, content in got] == [*sums, bytes(memoryview(numbers)[1:2])]


def test_views_and_owners_of_arenas_are_opened_by_a_worker(
    pool: Any, shm: shmclient.Client, arena: shmclient.Arena
) -> None:
    arena["x"] = np.arange(4)
    for value in (shm.open_arena("camera"), shmclient.reference(arena)):
        assert pool.apply(seen, (value,)) == ("ArenaView", 0, 6.0)


def test_executor_opens_references(numbers: Any) -> None:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        result = executor.submit(seen_all, shmclient.reference({"a": numbers, "b": numbers[1]})).result(60)
    assert [where for _, where, _ in result] == [address(numbers), address(numbers[1])]


def test_joblib_opens_references(numbers: Any) -> None:
    with joblib.parallel_config("loky", n_jobs=1):
        (got,) = joblib.Parallel(n_jobs=2)([joblib.delayed(seen)(shmclient.reference(numbers))])
    joblib.externals.loky.get_reusable_executor().shutdown(wait=True)
    assert got == ("ndarray", address(numbers), float(numbers.sum()))


def share_and_send(path: str) -> None:
    """In a process of its own: what is registered stays."""
    shmclient.share_arrays()
    with shmclient.connect(path) as shm, multiprocessing.get_context("spawn").Pool(1) as pool:
        values = [shm.get("numbers"), shm.get("numbers")[1], shm.get("bytes")]
        got = pool.apply(seen_all, ([*values, np.ones(3)],))
        places = [address(np.asarray(value)) for value in values]
        assert [where for _, where, _ in got][:3] == places
        assert got[3][::2] == ("ndarray", 3.0)
        pool.close()
        pool.join()


def test_arrays_are_shared_when_that_is_asked_for(
    host: WatchedHost, shm: shmclient.Client, numbers: Any
) -> None:
    shm.put("bytes", b"some bytes").close()
    process = multiprocessing.get_context("spawn").Process(target=share_and_send, args=(host.socket_path,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_region_on_its_way_is_kept_when_its_sender_has_closed_and_replaced_it(
    shm: shmclient.Client, other: shmclient.Client
) -> None:
    with shm.put("x", np.arange(10.0)) as region:
        sent = pickle.dumps(region)
    array = shm.get("x")
    value = pickle.dumps(shmclient.reference(array))
    del array
    shm.put("x", np.zeros(3)).close()
    other.unlink("x")
    with pickle.loads(sent) as got:
        assert (got.generation, got.value().sum()) == (1, 45)
    assert pickle.loads(value).sum() == 45


def test_reference_to_a_former_host_is_refused(shm: shmclient.Client) -> None:
    with shm.put("x", b"1") as region:
        function, arguments = region.__reduce__()[:2]
    with pytest.raises(shmclient.RegionNotFound, match="host that is gone"):
        function(arguments[0], "another", *arguments[2:])
    function(*arguments).close()


def test_reference_of_what_one_may_not_read_is_not_found(host: WatchedHost, shm: shmclient.Client) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    os.chmod(host.socket_path, 0o666)
    with shm.put("x", b"1") as region:
        sent = pickle.dumps(region)

        def load() -> None:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            with pytest.raises((shmclient.RegionNotFound, shmclient.AccessDenied)):
                pickle.loads(sent)

        in_child(load)
        pickle.loads(sent).close()


@pytest.mark.parametrize("value", [np.zeros(3), b"bytes", memoryview(b"bytes"), object, {1}], ids=type)
def test_what_is_in_no_region_is_not_referred_to(value: Any) -> None:
    with pytest.raises(TypeError, match=r"put\(\) it"):
        shmclient.reference(value)


def test_value_of_an_arena_is_not_referred_to(shm: shmclient.Client, arena: shmclient.Arena) -> None:
    arena["x"] = np.arange(4)
    with pytest.raises(TypeError, match="by its name"):
        shmclient.reference(shm.get("camera/x"))


def test_place_outside_of_the_region_is_a_bad_region(numbers: Any) -> None:
    function, (where, offset, shape, dtype, strides) = shmclient.reference(numbers).__reduce__()
    for wrong in [(offset, (4, 600)), (2**62, shape), (offset, (2**40, 6))]:
        with pytest.raises(shmclient.BadRegion):
            function(where, *wrong, dtype, strides)
    function, (where, *_) = shmclient.reference(memoryview(numbers)).__reduce__()
    with pytest.raises(shmclient.BadRegion):
        function(where, 2**30, 10, "B", (10,))


# --- copies


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copy_of_a_handle_is_another_handle(duplicate: Any, host: WatchedHost, shm: shmclient.Client) -> None:
    before = host.counts()
    region = shm.put("x", np.arange(10.0))
    with duplicate(region) as other:
        assert other.fileno() != region.fileno()
        region.close()
        shm.unlink("x")
        assert (other.value().sum(), other.generation, other.is_current()) == (45, 1, False)
        del region
    assert host.counts() == before


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copy_of_a_closed_handle_is_refused(duplicate: Any, shm: shmclient.Client) -> None:
    region = shm.put("x", b"1")
    region.close()
    with pytest.raises(shmclient.RegionClosed):
        duplicate(region)


async def test_handle_of_the_async_client_is_copied_and_pickled(ashm: shmclient.aio.AsyncClient) -> None:
    async with await ashm.put("x", np.arange(10.0)) as region:
        with copy.copy(region) as other:
            assert await other.is_current()
            assert other.value().sum() == 45
        with pickle.loads(pickle.dumps(region)) as got:
            assert type(got) is shmclient.Region
            assert got.is_current()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copy_of_a_handle_of_an_arena_holds_its_value(
    duplicate: Any, shm: shmclient.Client, arena: shmclient.Arena
) -> None:
    arena["x"] = np.arange(4)
    value = shm.open("camera/x")
    other = duplicate(value)
    value.close()
    arena["x"] = np.zeros(4)
    assert other.value().tolist() == [0, 1, 2, 3]


def test_deep_copy_of_a_value_is_private_memory(shm: shmclient.Client) -> None:
    shm.put("x", {"a": [np.arange(10)]}).close()
    got = copy.deepcopy(shm.get("x"))
    got["a"][0][:] = 0
    assert shm.get("x")["a"][0].sum() == 45


# --- handles as what they hold


def test_handle_is_an_array_for_numpy_without_a_copy(shm: shmclient.Client, arena: shmclient.Arena) -> None:
    expected = np.arange(24.0).reshape(4, 6)
    arena["x"] = expected
    with shm.put("x", expected) as region, shm.open("camera/x") as value:
        for handle in (region, value):
            array = np.asarray(handle)
            assert address(array) == address(handle.value())
            np.testing.assert_array_equal(array, expected)
            view = memoryview(handle)
            assert (view.format, view.shape, view.readonly) == ("d", (4, 6), True)
            assert (bytes(handle), len(handle), bool(handle)) == (expected.tobytes(), 4, True)
            assert np.asarray(handle, "f4").dtype == "f4"


@pytest.mark.parametrize(
    "value",
    [np.array(["2020-01-01"], "M8[s]"), np.asfortranarray(np.eye(3)), np.array(["a", "bc"])],
    ids=repr,
)
def test_array_of_any_dtype_is_one_for_numpy(value: Any, shm: shmclient.Client) -> None:
    with shm.put("x", value) as region:
        np.testing.assert_array_equal(np.asarray(region), value)
        assert np.asarray(region).dtype == value.dtype


def test_handle_of_bytes_is_bytes(shm: shmclient.Client) -> None:
    with shm.put("x", b"some bytes") as region:
        assert (bytes(region), len(region), memoryview(region)) == (b"some bytes", 10, b"some bytes")
        assert np.asarray(region).tobytes() == b"some bytes"
        view = memoryview(region)
    assert view == b"some bytes"


@pytest.mark.parametrize("function", [np.asarray, memoryview])
@pytest.mark.parametrize("value", [{"a": 1}, [np.zeros(3)], "text", None], ids=repr)
def test_handle_of_what_is_no_buffer_says_what_to_use(
    value: Any, function: Any, shm: shmclient.Client
) -> None:
    with shm.put("x", value) as region, pytest.raises(TypeError, match=r"value\(\)"):
        function(region)


def test_handle_of_an_arena_is_pinned_as_its_value(shm: shmclient.Client, arena: shmclient.Arena) -> None:
    arena["x"] = np.arange(4)
    with shm.open("camera/x") as value, shmclient.Pinner() as pinner:
        pinned = pinner.pin(value)
        assert (pinned.address, pinned.size, pinned.readonly) == (value.address, 32, True)


def test_empty_value_is_a_true_handle(shm: shmclient.Client) -> None:
    with shm.put("x", b"") as region:
        assert (len(region), bool(region), bytes(region)) == (0, True, b"")
