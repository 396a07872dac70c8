"""The fast road of the sync client: the most frequent requests, each as one call in C.

The call takes only the plainest case. It gives everything else back, as bytes and descriptors, to the plain
road, which goes on from there. So nothing is decided here.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from shmclient._codecs import described_already
from shmclient._connection.exchange import Pending
from shmclient._drivers import putting
from shmclient._drivers.answers import take
from shmclient._drivers.getting import Got, got, got_in, sorted_out
from shmclient._drivers.operations import batches, opened, published
from shmclient._drivers.steps import Ask, Look, Outcome
from shmclient._drivers.sync import PlainChannel
from shmclient._drivers.transfer import raise_unless_memory, write_all
from shmclient._regions.creation import Creation
from shmclient._regions.region import RegionHandle, adopted, close_all
from shmprotocol.abi.header import HEADER_SIZE
from shmprotocol.errors import RegionNotFound
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m

Names = str | tuple[str, ...]
R = TypeVar("R", bound=RegionHandle)
T = TypeVar("T")
P = ParamSpec("P")


def _trip(method: Callable[Concatenate[Channel, P], Any]) -> Callable[Concatenate[Channel, P], Any]:
    """Have a method be a trip: False while another one is unfinished, and undone when it fails."""

    @functools.wraps(method)
    def travel(self: Channel, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        if self._lane.unfinished:
            return False  # what this thread leaves unfinished from here on is of this call
        try:
            return method(self, *args, **kwargs)
        except BaseException as error:
            self._give_up_trip(error)
            raise
        finally:
            self._end_trip()

    return travel


class Channel(PlainChannel):
    """A connected, greeted socket with both roads."""

    def attach(self, kind: type[R] | None, client: object, names: Names, anywhere: bool) -> Any:
        """Open the regions of 1 to 64 names, and map them; return a handle of a class, or for None a Got.

        A list of them for a tuple of names. False: the fast road is not free, and nothing was done.
        """
        if self._lane.unfinished:
            return False
        try:  # as `_trip` does, whose further frame takes 2% of an attach
            result = self._lane.attach(kind, client, names)
            if result is None:
                return self._finish_attach(kind, client, names, anywhere)
            if kind is None and result is not False:
                return self._got(result, names)
            return result
        except BaseException as error:
            self._give_up_trip(error)
            raise
        finally:
            self._end_trip()

    def look(self, step: Look) -> Any:
        """Sleep as a PlainChannel does; then fetch what the step names, if that needs no other road."""
        answer = super().look(step)
        if answer and step.name:
            with contextlib.suppress(RegionNotFound):  # it was unlinked
                return self.attach(None, None, step.name, step.anywhere) or answer
        return answer

    def put(self, kind: type[R], client: object, name: str, obj: Any, mode: int, replace: bool) -> Any:
        """Put a small value; return a handle. False: as `attach`, or the value is not one for this road."""
        described = self.context.version >= putting.VERSION and described_already(obj)
        if described is False or self._lane.unfinished or not self._exchange.is_settled():
            return False
        try:  # as `_trip` does, like `attach`
            region = self._lane.put(kind, client, name, mode, replace, obj, described)
            if region is not None:
                return region
            request = m.Put(self._lane.id, name, mode, replace, 0, 0, 0, b"")  # for what an error says
            region = self._finish(request, lambda outcome: putting.sent(self.context, kind, outcome))
            return adopted(region, client)
        except BaseException as error:
            self._give_up_trip(error)
            raise
        finally:
            self._end_trip()

    def attach_many(self, kind: type[R], client: object, names: Sequence[str], anywhere: bool) -> Any:
        """Return handles of any number of names, all or none; None: the fast road was not free."""
        regions: list[R] = []
        try:
            for batch in batches(names):
                some = self.attach(kind, client, batch, anywhere)
                if some is False:
                    close_all(regions)
                    return None
                regions += some
        except BaseException:
            close_all(regions)
            raise
        return regions

    def get_many(
        self, names: Sequence[str], mapped_value: Callable[[str], Any], anywhere: bool
    ) -> list[Any] | None:
        """Return the values of any number of names, all or none; None: the fast road was not free."""
        values, missing = sorted_out(names, mapped_value)
        for batch in batches(missing):
            some = self.attach(None, None, batch, anywhere)
            if some is False:
                return None
            values.update(zip(batch, [each.value for each in some], strict=True))
        return [values[name] for name in names]

    def fill(self, kind: type[R], client: object, value: putting.Value) -> Any:
        """Put a value by a spare, and map it; return a handle. False: there is none, or it was taken back."""
        if self._lane.unfinished or not self._exchange.is_settled():
            return False
        spare = self.context.spares.take(value.size)
        if spare is None:
            return False
        try:
            write_all(spare.fileno(), HEADER_SIZE, value.chunks, value.progress)
            return self._assign(kind, client, value, spare)
        except BaseException as error:
            spare.abort()
            if isinstance(error, KeyboardInterrupt):
                self.retire()  # it may have come between two owners
            if type(error) in putting.TAKEN_BACK:
                return False
            if isinstance(error, OSError):
                raise_unless_memory(error)
            raise

    def _assign(self, kind: type[R], client: object, value: putting.Value, spare: Creation) -> R:
        fields = (spare.region, *value[:7], self.context.spares.wanted(value.size))
        handle: R | Literal[False] = self._assign_at_once(kind, client, spare, fields)
        if handle is not False:
            return handle
        outcome = self.ask(Ask(m.Assign(self.outbox.next_id(), *fields)))
        return adopted(published(self.context, kind, spare, *outcome), client)

    @_trip
    def _assign_at_once(self, kind: type[R], client: object, spare: Creation, fields: Any) -> Any:
        owned = descriptors.Owned()
        result = self._lane.assign(kind, client, owned, *fields)
        if result is False:
            return False
        if result is None:
            request = m.Assign(self._lane.id, *fields)
            region = self._finish(request, lambda outcome: published(self.context, kind, spare, *outcome))
            return adopted(region, client)
        spare.used()
        self.context.spares.add(tuple([m.Spare._make(each) for each in result[1]]), owned)
        return result[0]

    def _got(self, result: Any, names: Names) -> Got | list[Got]:
        if type(names) is not tuple:
            return got_in(self.context, *result)
        return [got_in(self.context, *part) for part in result]

    def _finish_attach(self, kind: type[R] | None, client: Any, names: Names, anywhere: bool) -> Any:
        all_names = names if type(names) is tuple else (str(names),)

        def finish(outcome: Outcome) -> list[Any]:
            if kind is None:
                return got(self.context, outcome, all_names, anywhere)
            regions = opened(self.context, kind, outcome, all_names, anywhere)
            return [adopted(region, client) for region in regions]

        results = self._finish(m.Open(self._lane.id, all_names, (), False), finish)
        return results if type(names) is tuple else results[0]

    def _finish(self, request: m.Message, finish: Callable[[Outcome], T]) -> T:
        """Do by the plain road what is left of a trip: it was sent, and part of the reply may be here."""
        lane, began_s = self._lane, self._lane.began_ns / 1e9
        pending: Pending = lane.pending
        pending.request = request
        if lane.reading:
            self._take_in(lane.reading, descriptors.taken)
            lane.reading.clear()
        self._leave_turn()
        self._await(pending, None, began_s)
        outcome = take(pending, None)
        pending.reply = None  # from here on it is not to be undone
        result = finish(outcome)
        self._renew_lane()
        return result

    def _end_trip(self) -> None:
        """Wake the threads that wait for the turn, which a trip has given up with no lock."""
        if self._sleepers:
            with self._lock:
                self._wake_sleepers()

    def _give_up_trip(self, error: BaseException) -> None:
        lane = self._lane
        if lane.unfinished != threading.get_ident():
            return  # nothing was sent, or all that came has its owner; there may be a trip of another thread
        if lane.reading or lane.is_lost:
            self._lose_reply()
        if isinstance(error, KeyboardInterrupt):
            self.retire()  # it may have come between two owners
        pending: Pending = lane.pending
        pending.request = pending.request or m.Open(lane.id, (), (), False)
        self._abandon(pending)
        self._renew_lane()
        self._leave_turn()
