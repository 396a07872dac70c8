"""What an address of this process leads to: a region that stays mapped, and leased, while it is kept."""

from __future__ import annotations

import gc

import pytest

import shmclient
from shmclient._process.address_space import ADDRESS_SPACE, Place
from support import WatchedHost, mapped_addresses, wait_until


def place_of(address: int) -> Place:
    mapping = ADDRESS_SPACE.find(address)
    assert mapping is not None
    return mapping


@pytest.mark.parametrize("again", [False, True], ids=["once", "opened again and closed"])
def test_place_keeps_the_lease_of_its_region(again: bool, host: WatchedHost, shm: shmclient.Client) -> None:
    before = host.counts()
    shm.put("x", b"0123456789").close()
    region = shm.open("x")
    address = region.address
    with shmclient.connect(host.socket_path) as other:
        if again:
            other.open("x").value().release()
            gc.collect()
        first, second = place_of(address), place_of(address)
        region.close()
        shm.unlink("x")
        del region
        gc.collect()
        assert host.counts()["leases"] == 1
        del first
        gc.collect()
        assert (host.counts()["leases"], address in mapped_addresses()) == (1, True)
        del second
        gc.collect()
        assert address not in mapped_addresses()
    wait_until(lambda: host.counts() == before)


def test_place_needs_no_lease_of_its_own_while_others_have_one(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    shm.put("x", b"0123456789").close()
    with shmclient.connect(host.socket_path) as other:
        first, second = shm.open("x"), other.open("x")
        mapping = place_of(first.address)
        assert host.counts()["leases"] == 2
        first.close()
        wait_until(lambda: host.counts()["leases"] == 1)
        second.close()
        gc.collect()
        assert host.counts()["leases"] == 1
        del mapping
        gc.collect()
        wait_until(lambda: host.counts()["leases"] == 0)
