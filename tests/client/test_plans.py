"""Values whose metadata are alike: they are read once, and no value can tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import shmclient
from shmclient import _codecs
from shmprotocol.errors import BadRegion


def test_values_that_are_alike_share_no_metadata(shm: shmclient.Client) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        shm.put(name, np.full((2, 3), value)).close()
    first, second = shm.get_many(["a", "b"])
    np.testing.assert_array_equal(first, np.full((2, 3), 1.0))
    np.testing.assert_array_equal(second, np.full((2, 3), 2.0))
    with shm.open("a") as region:
        region.metadata["shape"].append("its reader's own affair")
    del first, second
    np.testing.assert_array_equal(shm.get("a"), np.full((2, 3), 1.0))


@pytest.mark.parametrize("value", [b"", b"12", np.zeros((0, 3)), np.array(7), np.ones((2, 3), order="F")])
def test_values_are_the_same_by_both_roads_and_again(value: Any, shm: shmclient.Client) -> None:
    shm.put("x", value).close()
    got = [shm.get("x"), shm.get("x"), *shm.get_many(["x"]), shm.open("x").value()]
    del got[:3]
    got += [*shm.get_many(["x"]), shm.get("x", wait=1), shm.get("x")]
    expected = value if isinstance(value, np.ndarray) else memoryview(value)
    for each in got:
        np.testing.assert_array_equal(np.asarray(each), np.asarray(expected))
        assert getattr(each, "flags", {}) == getattr(got[0], "flags", {})


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": "ndarray", "dtype": "<f8", "shape": [9], "order": "C", "offset": 0, "size": 72},
        {"format": "ndarray", "dtype": "<f8", "shape": [1], "order": "X", "offset": 0, "size": 8},
        {"format": ["ndarray"], "offset": 0, "size": 8},
        {"format": "bytes", "offset": 0, "size": 65},
        {"format": "bytes", "offset": True, "size": 8},
    ],
)
def test_metadata_that_lie_are_refused_each_time(metadata: dict[str, Any]) -> None:
    data = memoryview(bytes(64))
    for _ in range(3):
        with pytest.raises(BadRegion, match="does not fit the data"):
            _codecs.decode_packed(_codecs.pack_metadata(metadata), data, lambda: data)


def test_data_that_are_shorter_are_refused_though_the_plan_is_known() -> None:
    metadata = _codecs.pack_metadata({"format": "bytes", "offset": 8, "size": 8})
    assert _codecs.decode_packed(metadata, memoryview(bytes(16)), lambda: memoryview(b""))[0] == bytes(8)
    with pytest.raises(BadRegion, match="does not fit the data"):
        _codecs.decode_packed(metadata, memoryview(bytes(15)), lambda: memoryview(b""))
