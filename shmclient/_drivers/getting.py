"""Operations on the values of many names; see `operations`. Do no I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shmclient._codecs.libraries import LibraryName
from shmclient._drivers.answers import granted, leased
from shmclient._drivers.operations import batches, map_value, open_request
from shmclient._drivers.steps import Context, Operation, Outcome, Remaining
from shmclient._regions.mapped import Inside, Mapped, mapped_already, note_mapped
from shmclient._regions.region import RegionHandle, close_all
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import check_name


class Got(NamedTuple):
    """A value, which keeps its region mapped, and the data about the mapping, which does not."""

    value: Any
    mapped: Mapped


def get_many(
    context: Context,
    names: Sequence[str],
    wait: Remaining,
    anywhere: bool,
    mapped_value: Callable[[str], Any],
) -> Operation[list[Any]]:
    """Return the value of each name; a round trip for each 64 that `mapped_value` has not. All or none."""
    values, missing = sorted_out(names, mapped_value)
    for batch in batches(missing):
        outcome = yield open_request(context, batch, (), wait())
        for name, (value, _) in zip(batch, got(context, outcome, batch, anywhere), strict=True):
            values[name] = value
    return [values[name] for name in names]


def sorted_out(
    names: Sequence[str], mapped_value: Callable[[str], Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the values that need no host, by name, and the other names, each once."""
    values = {name: mapped_value(check_name(name)) for name in names}
    missing = tuple(name for name, value in values.items() if value is None)
    return values, missing


def got(context: Context, outcome: Outcome, names: Sequence[str], anywhere: bool) -> list[Got]:
    """Return what the answer to an Open of these names brings. All or none."""
    grants, owned = granted(context, outcome, len(names), 0)
    leases = leased(context, grants, owned)
    return [
        Got(*map_value(context, grant, lease, owned.take(), anywhere, name))
        for name, grant, lease in zip(names, grants, leases, strict=True)
    ]


def got_in(context: Context, grant: m.Grant, buffer: Any, inside: Inside) -> Got:
    """Return the value of a region that the fast road has mapped."""
    mapped = mapped_already(grant, context.outbox.board, buffer, inside)
    note_mapped(context.mapped, mapped)
    return Got(mapped.value(), mapped)


def values_of(handles: Sequence[RegionHandle], library: LibraryName) -> list[Any]:
    """Return the values of handles with a library's arrays, and close the handles."""
    try:
        return [handle.value(as_=library) for handle in handles]
    finally:
        close_all(handles)
