"""The file of a fleet: what is refused, and what the refusal says."""

from __future__ import annotations

from pathlib import Path

import pytest

from shmhost.fleet.config import read_fleet
from shmhost.fleet.messages import FORM, address, card_of, claim_of, pack, unpack
from shmhost.settings.config import WINDOWS
from shmprotocol.errors import InvalidArgument, RemoteProtocolError


def read(folder: Path, text: str) -> object:
    path = folder / "fleet.toml"
    path.write_text(text)
    return read_fleet(str(path), WINDOWS)


def test_file_has_defaults_for_all_but_the_name_of_the_fleet(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text('fleet = "lab"')
    plan = read_fleet(str(path), WINDOWS)
    assert (plan.fleet, plan.slices, plan.slice, plan.listen, plan.tls) == ("lab", 16, None, (), None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the name of the fleet is missing"),
        ("fleet = 1", "letters, digits"),
        ('fleet = "a/b"', "letters, digits"),
        ('fleet = "*"', "letters, digits"),
        ('fleet = "a"\nslcies = 3', "'slcies' is unknown"),
        ('fleet = "a"\nslices = 0', "slices is a number from 1 to 4096"),
        ('fleet = "a"\nslices = true', "takes a value of type int"),
        ('fleet = "a"\nslice = 16', "slice is a number from 0 to 15"),
        ('fleet = "a"\nslice = -1', "slice is a number from 0 to 15"),
        ('fleet = "a"\nlisten = "tcp/127.0.0.1:1"', "takes a value of type list"),
        ('fleet = "a"\nlisten = ["tcp/0.0.0.0:7447"]', "not an address of this machine alone"),
        ('fleet = "a"\nconnect = ["tcp/10.0.0.1:7447"]', "use tls/10.0.0.1:7447"),
        ('fleet = "a"\nconnect = ["tcp/localhost:7447"]', "not an address of this machine alone"),
        ('fleet = "a"\nconnect = ["tls/10.0.0.1:7447"]', "needs \\[tls\\]"),
        ('fleet = "a"\nconnect = ["udp/127.0.0.1:7447"]', "an endpoint is such as"),
        ('fleet = "a"\nconnect = ["tcp/127.0.0.1:7447#iface=eth0"]', "an endpoint is such as"),
        ('fleet = "a"\n[tls]\nca = "ca.pem"', "has just ca, certificate, key"),
        ('fleet = "a"\n[tls]\nca = "a"\ncertificate = "b"\nkey = "c"', "cannot be read"),
        ('fleet = "a"\nbandwidth = "1K"', "bandwidth is bytes a second, at least 65536"),
        ('fleet = "a"\npeer_bandwidth = 0', "peer_bandwidth is bytes a second"),
        ('fleet = "a"\nlag = -1', "lag is seconds from 0 to 3600"),
        ('fleet = "a"\nlag = true', "lag is seconds"),
        ('fleet = "a"\n[access.b]\nimport = [""]', "\\[access\\] needs \\[tls\\]"),
        ("fleet = ", "cannot be read"),
    ],
)
def test_mistake_is_refused_with_the_file_and_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"fleet\.toml.*{reason}"):
        read(tmp_path, text)


def test_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot be read"):
        read_fleet(str(tmp_path / "none.toml"), WINDOWS)


CARD = (FORM, "0" * 32, "a", ((0x550000000000, 2**38),), 16, 4096, (1, 0), 3, False, 0)


def test_card_is_what_was_sent() -> None:
    assert tuple(card_of(unpack(pack(*CARD)))) == CARD
    assert tuple(card_of(unpack(pack(*CARD, "of a newer version")))) == CARD


@pytest.mark.parametrize("index", range(1, len(CARD)))
@pytest.mark.parametrize("wrong", [None, -1, 2**70, "x" * 10_000, b"a", (), {}, ((1, 2, 3),), 1.5])
def test_card_with_a_wrong_field_is_refused(index: int, wrong: object) -> None:
    if index == 7 and wrong is None:
        return  # a host without a slice
    if index == 3 and wrong == ():
        return  # no window differs from all others
    with pytest.raises(RemoteProtocolError):
        card_of((*CARD[:index], wrong, *CARD[index + 1 :]))


def test_card_of_another_form_shows_who_it_is() -> None:
    card = card_of((FORM + 1, "0" * 32, "a", "whatever"))
    assert (card.form, card.name) == (FORM + 1, "a")


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01", b"\x91", b"\xdd\xff\xff\xff\xff", b"\x91" * 2000])
def test_bytes_that_are_not_a_message_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack(data)


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "g" * 32, "*" * 32, "../" * 10 + "00"])
def test_address_that_would_be_another_key_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        address(text)


def test_claim_of_no_slice_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        claim_of(("0" * 32, 4096, False))
