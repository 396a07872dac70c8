"""The tables of `fleet`, and the slices in `map`. Pure; every byte of a host's answer is untrusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgpack
from rich import box
from rich.table import Table
from rich.text import Text

from shmhost.commands.text import format_size, printable
from shmhost.fleet.plan import parts_of

Row = dict[str, Any]
MAX_TEXT = 200
MAX_ITEMS = 4096
LIMIT = 2**63


def rows_of(answers: Mapping[str, bytes | str]) -> list[Row]:
    """Return a row for each host: its status, or `error`, why there is none; by their names."""
    rows = [_row(address, answer) for address, answer in answers.items()]
    return sorted(rows, key=lambda row: (row["name"], row["address"]))


def named(answers: Mapping[str, bytes | str]) -> set[str]:
    """Return the addresses of the hosts that others see."""
    return {peer["address"] for row in rows_of(answers) for peer in row.get("peers", ())}


def _row(address: str, answer: bytes | str) -> Row:
    empty: Row = {"name": address[:16], "address": address, "error": ""}
    if isinstance(answer, str):
        return {**empty, "error": printable(answer)}
    try:
        (status, *_) = msgpack.unpackb(answer, strict_map_key=True, raw=False)
        return {**empty, **_checked(status), "address": address}
    except (ValueError, TypeError, KeyError, RecursionError, msgpack.UnpackException):
        return {**empty, "error": "answers with something that is not a status"}


def _checked(status: Mapping[str, Any]) -> Row:
    """Return the fields that this version has, each of its type; ValueError, KeyError."""
    windows = [(_number(base), _number(size)) for base, size in status["windows"][:64]]
    return {
        "name": _text(status["name"]),
        "slice": None if status["slice"] is None else _number(status["slice"]),
        "slices": max(_number(status["slices"]), 1),
        "lost": [_number(number) for number in status["lost"][:MAX_ITEMS]],
        "windows": windows,
        "free": _number(status["free"]),
        "links": _number(status["links"]),
        "exports": {
            _text(name): _number(status["exports"][name]) for name in [*status["exports"]][:MAX_ITEMS]
        },
        "conflicts": {
            _text(name): [_text(host) for host in hosts[:MAX_ITEMS]]
            for name, hosts in [*status.get("conflicts", {}).items()][:MAX_ITEMS]
        },
        "failed": {_text(name): _text(status["failed"][name]) for name in [*status["failed"]][:MAX_ITEMS]},
        "replicas": [
            {
                "name": _text(each["name"]),
                "generation": _number(each["generation"]),
                "size": _number(each["size"]),
                "state": _text(each["state"]),
                "lag_s": float(each["lag_s"]),
            }
            for each in status["replicas"][:MAX_ITEMS]
        ],
        "peers": [
            {
                "name": _text(peer["name"]),
                "address": _text(peer["address"]),
                "refused": _text(peer["refused"]),
                "silent_s": float(peer["silent_s"]),
            }
            for peer in status["peers"][:MAX_ITEMS]
        ],
    }


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < LIMIT:
        raise ValueError(value)
    return value


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError(value)
    return printable(value[:MAX_TEXT])


def fleet_table(rows: Iterable[Row]) -> Table:
    """Return a table with a line for each host."""
    titles = ("host", "slice", "addresses", "free", "links", "seen", "exports", "replicas")
    table = Table(*titles, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        if row["error"]:
            table.add_row(Text(row["name"]), Text(row["error"]))
            continue
        number, seen = row["slice"], [peer for peer in row["peers"] if not peer["refused"]]
        table.add_row(
            Text(row["name"]),
            "none" if number is None else str(number),
            Text("\n".join(addresses(row, number)), overflow="fold"),
            format_size(row["free"]),
            str(row["links"]),
            str(len(seen)),
            str(len(row["exports"])),
            str(len(row["replicas"])),
        )
    return table


def replica_table(rows: Iterable[Row]) -> Table:
    """Return a table with a line for each replica: where, how far, and how long it took."""
    titles = ("name", "host", "generation", "size", "state", "took")
    table = Table(*titles, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        for each in row.get("replicas", ()):
            size, took = format_size(each["size"]), f"{each['lag_s']:.3f} s" if each["lag_s"] else ""
            line = each["name"], row["name"], str(each["generation"]), size, each["state"], took
            table.add_row(*map(Text, line))
    return table


def problems(rows: Iterable[Row]) -> list[Text]:
    """Return a line for each slice that was lost, each host that is refused, and each missing copy."""
    lines = []
    for row in rows:
        for number in row.get("lost", ()):
            text = f"{row['name']} has lost slice {number} to another host: what lies there stays"
            lines.append(Text(text, style="yellow"))
        lines += [
            Text(f"{row['name']} refuses {peer['name']}: {peer['refused']}", style="red")
            for peer in row.get("peers", ())
            if peer["refused"]
        ]
        lines += [
            Text(f"{row['name']}: {', '.join(hosts)} export {name}, and others copy that of the first", "red")
            for name, hosts in row.get("conflicts", {}).items()
        ]
        lines += [
            Text(f"{row['name']} has no copy of {name}: {reason}", style="red")
            for name, reason in row.get("failed", {}).items()
        ]
    return lines


def addresses(row: Row, number: int | None) -> list[str]:
    """Return the ranges of a slice, one of each window."""
    if number is None or number >= row["slices"]:
        return []
    spans = [parts_of(window, row["slices"])[number] for window in row["windows"]]
    return [f"{span.address:#x}-{span.end:#x}" for span in spans]


def slice_lines(rows: Iterable[Row]) -> list[Text]:
    """Return a line for each slice that a host has, for `map`."""
    return [
        Text(f"slice {row['slice']:<4} {', '.join(addresses(row, row['slice']))}  {row['name']}")
        for row in sorted(rows, key=lambda row: row.get("slice") or 0)
        if row.get("slice") is not None
    ]
