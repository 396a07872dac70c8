"""A host's part in its fleet: what it remembers of others and of its own slices, and for how long."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shmhost.core.window import STEP, Span
from shmhost.fleet import rejoining
from shmhost.fleet.access import EVERYBODY, Access, Rights
from shmhost.fleet.config import FleetConfig
from shmhost.fleet.names import MAX_OF_NAME
from shmhost.fleet.plan import SlicedAllocator
from shmhost.fleet.service import RETURN_S, Service
from shmhost.machine import fleet_file
from shmprotocol.errors import HostError, RemoteProtocolError

pytest.importorskip("blake3", reason="the extra `fleet` is not installed")

BASE, SLICE = 1 << 40, 32 * STEP
IDENTITY = "1" * 16
LIST = Access({"left": Rights((), ()), "right": Rights((), ()), "evil": Rights((), ())})


def with_service(folder: Path, use: Callable[[Service], Any], access: Access = EVERYBODY) -> Any:
    """Make the service of a host that has lost slice 1, by its file; return what a call of it returns."""

    async def run() -> Any:
        path = str(folder / "socket")
        fleet_file.store(f"{path}.fleet", fleet_file.Identity("a" * 16, 0, (1,)))
        hub: Any = SimpleNamespace(registry=SimpleNamespace(regions={}))
        plan = FleetConfig("fleet.toml", "test", "left", slices=2, access=access)
        service = Service(plan, hub, SlicedAllocator(((BASE, 2 * SLICE),), 2), path)
        try:
            result = use(service)
            return await result if asyncio.iscoroutine(result) else result
        finally:
            await service.sharing.close()
            service.engine.close()

    return asyncio.run(run())


def lost_after(folder: Path, seconds: float, *regions: Any) -> tuple[list[int], tuple[int, ...]]:
    """Return the lost slices of a host that has run for so long, and those in its file."""

    async def look(service: Service) -> tuple[list[int], tuple[int, ...]]:
        began_s = service.clock()
        service.hub.registry.regions.update({region.number: region for region in regions})
        service.clock = lambda: began_s + seconds
        await service._forget_lost()
        return service.claims.lost, fleet_file.load(f"{folder}/socket.fleet").lost

    result: tuple[list[int], tuple[int, ...]] = with_service(folder, look)
    return result


def test_lost_slice_is_remembered_until_clients_had_time_to_return(tmp_path: Path) -> None:
    assert lost_after(tmp_path, RETURN_S - 1) == ([1], (1,))


def test_lost_slice_is_forgotten_when_nothing_of_this_host_lies_there(tmp_path: Path) -> None:
    assert lost_after(tmp_path, RETURN_S + 1) == ([], ())


def test_lost_slice_is_remembered_as_long_as_a_region_lies_there(tmp_path: Path) -> None:
    region = SimpleNamespace(number=7, span=Span(BASE + SLICE, STEP))
    assert lost_after(tmp_path, 100 * RETURN_S, region) == ([1], (1,))


def show(service: Service, name: str, host: str, process: int, shown: str = "") -> None:
    """Show the card of a process of a host whose keys have a name; `shown` is the one in the card."""
    address = f"{host}{process:016x}"
    assert service.engine._names.appear(address, name)
    service.members.appear(address)
    card = service.card()._replace(address=address, name=shown or name)
    try:
        service._take_card(address, tuple(card))
    finally:
        service.engine._names.leave(address, name)
        service._leave(address)


def test_identity_of_another_host_is_refused_with_an_access_list(tmp_path: Path) -> None:
    """Also while that host is not there: its slice and its regions come back with it."""

    def use(service: Service) -> None:
        show(service, "right", IDENTITY, 1)
        with pytest.raises(RemoteProtocolError, match="'evil' shows the identity of 'right'"):
            show(service, "evil", IDENTITY, 2)
        show(service, "right", IDENTITY, 3)

    with_service(tmp_path, use, LIST)


def test_name_of_another_host_is_refused_with_an_access_list(tmp_path: Path) -> None:
    def use(service: Service) -> None:
        with pytest.raises(RemoteProtocolError, match="of 'evil' shows a card of 'right'"):
            show(service, "evil", IDENTITY, 1, "right")
        show(service, "right", IDENTITY, 2)  # the card that was refused has taken nothing

    with_service(tmp_path, use, LIST)


def test_host_that_makes_up_identities_gets_none_of_another(tmp_path: Path) -> None:
    def use(service: Service) -> None:
        show(service, "right", IDENTITY, 1)
        for number in range(2 * MAX_OF_NAME):
            show(service, "evil", f"{number:016x}", 1)
        with pytest.raises(RemoteProtocolError, match="'evil' shows the identity of 'right'"):
            show(service, "evil", IDENTITY, 2)

    with_service(tmp_path, use, LIST)


def test_identity_may_come_with_another_name_without_an_access_list(tmp_path: Path) -> None:
    """Such as that of a machine that was renamed: nothing shows which one is right."""

    def use(service: Service) -> str:
        for process, name in enumerate(["right", "renamed"]):
            show(service, name, IDENTITY, process)
        return service.host_name(IDENTITY)

    assert with_service(tmp_path, use) == "right"


def test_hosts_that_find_no_place_are_said_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def use(service: Service) -> dict[str, float]:
        for number in range(MAX_OF_NAME + 5):
            service.engine._names.appear(f"{number:032x}", "evil")
            service._say_limits()
        return {name: value for name, _, value in service.gauges()}

    assert with_service(tmp_path, use, LIST)["fleet_left_out"] == 5
    assert [record.getMessage() for record in caplog.records if "found no place" in record.getMessage()] == [
        "fleet test: so many hosts are there that one found no place; more of that is counted"
    ]


def test_host_whose_going_was_dropped_takes_no_place(tmp_path: Path) -> None:
    """As when more come and go than is taken: the engine knows it no more, and would never say so again."""
    pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")

    async def use(service: Service) -> set[str]:
        there, gone = (f"{number:032x}" for number in (1, 2))
        service.engine._names.appear(there, "right")
        for address in (there, gone):
            service.members.appear(address)
        service.members.present[there].heard_s = service.clock()  # it is not asked for its card yet
        await service._beat_once()
        return set(service.members.present) - {there}

    assert with_service(tmp_path, use) == set()


def test_host_tries_again_to_come_into_a_fleet_whatever_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rejoining, "AGAIN_S", 0.0)
    errors: list[Exception] = [HostError("port"), FileNotFoundError("ca.pem"), RuntimeError("of zenoh")]

    async def appear() -> None:
        if errors:
            raise errors.pop(0)

    async def use(service: Service) -> None:
        service.claims.held = 0
        monkeypatch.setattr(service, "appear", appear)
        monkeypatch.setattr(service, "go_on", lambda: None)
        near, far = socket.socketpair()
        far.close()
        await rejoining.rejoin(service, near)
        assert near.fileno() < 0

    with_service(tmp_path, use)
    assert [record.getMessage().partition(".")[0] for record in caplog.records] == ["port", "ca", "of zenoh"]
