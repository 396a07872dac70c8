"""The file of a fleet: who this host is in it, how it reaches others, what it shares. Opens no socket."""

from __future__ import annotations

import ipaddress
import os
import pwd
import re
import socket
import tomllib
from dataclasses import dataclass
from typing import Any, TypeVar

from shmhost.fleet.access import EVERYBODY, Access, Rights
from shmhost.fleet.certificates import common_name
from shmhost.fleet.plan import Windows, check_slices
from shmprotocol.cli import parse_size
from shmprotocol.errors import InvalidArgument
from shmprotocol.wire.names import check_part

T = TypeVar("T")

SLICES = 16
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")  # a part of a key: zenoh gives / * $ ? # a meaning
MAX_FILE = 2**20  # bytes
MAX_ITEMS = 1024
CHUNKS, MAX_CHUNKS = 8, 256  # under way from each host: of 1 MiB, or of 4 for regions of a GiB
LAG_S, MAX_LAG_S = 0.05, 3600.0
MIN_RATE = 2**16  # bytes a second: a chunk of a MiB takes 16 s then
TLS_KEYS = ("ca", "certificate", "key")
EXAMPLES = "tcp/127.0.0.1:7447 or, with [tls], tls/10.0.0.1:7447"


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files: both sides of each link show a certificate of this CA."""

    ca: str
    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """The values of fleet.toml. `slice` is None if the hosts are to agree on one."""

    path: str
    fleet: str
    name: str
    listen: tuple[str, ...] = ()
    connect: tuple[str, ...] = ()
    slices: int = SLICES
    slice: int | None = None
    tls: Tls | None = None
    exports: tuple[str, ...] = ()  # prefixes of names
    imports: tuple[str, ...] = ()  # likewise
    fetch: tuple[str, ...] = ()  # likewise: of names that are copied when a client waits for one
    memory: int | None = None  # bytes of replicas; None: half of the budget
    chunks: int = CHUNKS
    bandwidth: int | None = None  # bytes a second sent, and as many received; None: no limit
    peer_bandwidth: int | None = None  # likewise, to and from each other host
    lag_s: float = LAG_S  # a changed value of an arena waits for so long at most before it is announced
    bulk: tuple[str, ...] | None = None  # where others fetch chunks; None: where `listen` says, at free ports
    users: tuple[tuple[str, str], ...] = ()  # names there and here
    access: Access = EVERYBODY  # who else is let in, and what others may copy and announce


def read_fleet(path: str, windows: Windows) -> FleetConfig:
    """Return the fleet of a file, for a host with these windows. InvalidArgument: it has a mistake."""
    try:
        with open(path, encoding="utf-8") as stream:
            values = tomllib.loads(stream.read(MAX_FILE))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"the fleet file {path} cannot be read: {error}") from None
    try:
        return _config(path, values, windows)
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error}") from None


def _config(path: str, values: dict[str, Any], windows: Windows) -> FleetConfig:
    unknown = sorted(set(values) - set(KEYS))
    if unknown:
        raise InvalidArgument(f"the key {unknown[0]!r:.60} is unknown: use {', '.join(KEYS)}")
    if "fleet" not in values:
        raise InvalidArgument('the name of the fleet is missing, such as fleet = "lab"')
    tls = _tls(values["tls"], os.path.dirname(os.path.abspath(path))) if "tls" in values else None
    slices = check_slices(windows, _typed(values, "slices", int, SLICES))
    number = _typed(values, "slice", int, -1)
    if "slice" in values and not 0 <= number < slices:
        raise InvalidArgument(f"slice is a number from 0 to {slices - 1}, not {number}")
    listen = _endpoints(values, "listen", tls)
    return FleetConfig(
        path,
        _name(values["fleet"], "fleet"),
        _name(values.get("name", socket.gethostname()), "name"),
        listen,
        _endpoints(values, "connect", tls),
        slices,
        number if "slice" in values else None,
        tls,
        _prefixes(values, "export"),
        _prefixes(values, "import"),
        _prefixes(values, "fetch"),
        _size(values, "memory"),
        _chunks(values),
        _rate(values, "bandwidth"),
        _rate(values, "peer_bandwidth"),
        _lag(values),
        _bulk(values, listen, tls),
        _users(values),
        _access(values, tls),
    )


def _prefixes(values: dict[str, Any], key: str) -> tuple[str, ...]:
    prefixes = _texts(values, key)
    for prefix in prefixes:
        check_part(f"a prefix of {key}", prefix)
    return prefixes


def _size(values: dict[str, Any], key: str) -> int | None:
    return parse_size(str(values[key])) if key in values else None


def _lag(values: dict[str, Any]) -> float:
    lag_s = values.get("lag", LAG_S)
    if type(lag_s) not in (int, float) or not 0 <= lag_s <= MAX_LAG_S:
        raise InvalidArgument(f"lag is seconds from 0 to {MAX_LAG_S:g}, such as 0.05, not {lag_s!r:.60}")
    return float(lag_s)


def _rate(values: dict[str, Any], key: str) -> int | None:
    rate = _size(values, key)
    if rate is not None and rate < MIN_RATE:
        raise InvalidArgument(f"{key} is bytes a second, at least {MIN_RATE}, not {values[key]!r:.60}")
    return rate


def _chunks(values: dict[str, Any]) -> int:
    chunks = _typed(values, "chunks", int, CHUNKS)
    if not 1 <= chunks <= MAX_CHUNKS:
        raise InvalidArgument(f"chunks is a number from 1 to {MAX_CHUNKS}, not {chunks}")
    return chunks


def _bulk(values: dict[str, Any], listen: tuple[str, ...], tls: Tls | None) -> tuple[str, ...] | None:
    if "bulk" not in values:
        return None
    hosts = {endpoint.rpartition(":")[0] for endpoint in listen}
    endpoints = _endpoints(values, "bulk", tls)
    for endpoint in endpoints:
        if endpoint.rpartition(":")[0] not in hosts:
            raise InvalidArgument(f"bulk: {endpoint} is at no address of listen: others do not look there")
    return endpoints


def _users(values: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    users = _typed(values, "users", dict, {})
    for here in users.values():
        try:
            pwd.getpwnam(here)
        except (KeyError, TypeError, ValueError):
            raise InvalidArgument(f"[users]: there is no user {here!r:.60} on this machine") from None
    return tuple(users.items())


def _access(values: dict[str, Any], tls: Tls | None) -> Access:
    """Return the access list. Peers are known by their certificates, so it takes one of its own."""
    if "access" not in values:
        return EVERYBODY
    if tls is None:
        raise InvalidArgument("[access] needs [tls]: it knows hosts by the names in their certificates")
    own, name = common_name(tls.certificate), _name(values.get("name", socket.gethostname()), "name")
    if own != name:
        raise InvalidArgument(
            f"[access]: the name of this host is {name!r}, and its certificate has the common name {own!r}: "
            "others let it in by that, so let both be the same"
        )
    table = _typed(values, "access", dict, {})
    return Access({_name(peer, "a host in [access]"): _rights(peer, table[peer]) for peer in table})


def _rights(peer: str, values: object) -> Rights:
    if not isinstance(values, dict) or set(values) - {"import", "export"}:
        raise InvalidArgument(f"[access.{peer}] has just import and export: lists of prefixes")
    return Rights(_prefixes(values, "import"), _prefixes(values, "export"))


def _name(value: object, key: str) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise InvalidArgument(f"{key} is 1 to 63 letters, digits, dots, dashes, not {value!r:.80}")
    return value


def _typed(values: dict[str, Any], key: str, kind: type[T], default: T) -> T:
    value = values.get(key, default)
    if type(value) is not kind:
        raise InvalidArgument(f"{key} is not {value!r:.60}: it takes a value of type {kind.__name__}")
    return value


def _texts(values: dict[str, Any], key: str) -> tuple[str, ...]:
    texts = _typed(values, key, list, [])
    if len(texts) > MAX_ITEMS or not all(isinstance(text, str) for text in texts):
        raise InvalidArgument(f"{key} is a list of at most {MAX_ITEMS} texts, not {texts!r:.80}")
    return tuple(texts)


def _tls(values: object, folder: str) -> Tls:
    if not isinstance(values, dict) or set(values) != set(TLS_KEYS):
        raise InvalidArgument(f"[tls] has just {', '.join(TLS_KEYS)}: each is the path of a PEM file")
    paths = [os.path.join(folder, _typed(values, key, str, "")) for key in TLS_KEYS]
    for path in paths:
        if not os.access(path, os.R_OK):
            raise InvalidArgument(f"[tls]: the file {path} cannot be read")
    return Tls(*paths)


def _endpoints(values: dict[str, Any], key: str, tls: Tls | None) -> tuple[str, ...]:
    endpoints = _texts(values, key)
    for endpoint in endpoints:
        _check_endpoint(endpoint, key, tls)
    return endpoints


def _check_endpoint(endpoint: str, key: str, tls: Tls | None) -> None:
    """Refuse an endpoint over which other machines would reach this one without a certificate."""
    protocol, _, address = endpoint.partition("/")
    host, _, port = address.rpartition(":")
    if protocol not in ("tcp", "tls") or not port.isdecimal() or re.search(r"[?#;/]", address):
        raise InvalidArgument(f"{key}: an endpoint is such as {EXAMPLES}, not {endpoint!r:.80}")
    if protocol == "tls" and tls is None:
        raise InvalidArgument(f"{key}: {endpoint} needs [tls] with {', '.join(TLS_KEYS)}")
    if protocol == "tcp" and not is_loopback(host):
        raise InvalidArgument(
            f"{key}: {endpoint} is not an address of this machine alone, and whoever reaches it could read "
            f"and announce regions: use tls/{address}, and [tls] with {', '.join(TLS_KEYS)}"
        )


def is_loopback(host: str) -> bool:
    """Whether an address is one that only processes of this machine reach; a name never is."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


KEYS = (
    *("fleet", "name", "listen", "connect", "slices", "slice", "tls"),
    *("export", "import", "fetch", "memory", "chunks", "users"),
    *("bandwidth", "peer_bandwidth", "lag", "access", "bulk"),
)
