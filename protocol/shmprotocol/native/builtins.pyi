"""The builtins of the compiled module; see `builtins.c`."""

from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Self, TypeVar

T = TypeVar("T")

def parse_attach(data: bytes, current: dict[str, T], /) -> tuple[int, list[int], int, list[T]] | None:
    """Return what all of the data asks for: Releases, and then an Open or nothing.

    That is the number of Releases, the leases that they give back, the id of the Open, and what it opens: the
    values of its names in `current`. None: the data is anything else, or not whole, or a name has no value.
    """

def accept_now(descriptor: int, /) -> int:
    """Accept a connection of a listener that does not block; the caller owns its descriptor.

    That does not block either. OSError as accept(2), BlockingIOError when nobody waits.
    """

def receive_now(descriptor: int, /) -> bytes:
    """Read once from a socket, without waiting and without descriptors; `b""` is EOF. OSError as `recv`."""

def send_now(
    descriptor: int, data: bytes, rights: array[int], memory: object = ..., older: int = ..., /
) -> int:
    """Send bytes to a socket, without waiting, with descriptors on their first byte; return the number sent.

    `rights` is an array("i") of at most 64. OSError as for `sendmsg`; SIGPIPE is not raised. With the memory
    of a state file and the number of an older region, the file says from the same system call on that this
    has lost its name.
    """

def pack_opened(request: int, leases: list[int], grants: list[bytes], /) -> bytes:
    """Return the whole frame of an Opened with at most 64 grants, whose descriptors go with it.

    The grants are packed but for their leases: those go behind the first byte of each.
    """

def parse_put(data: bytes, /) -> tuple[int, list[int], int, str, int, bool, int, int, int, int, int] | None:
    """Return what all of the data asks for: Releases, and then a Put.

    That is the number of Releases, the leases that they give back, the fields of the Put, and where in the
    data its payload starts and how many bytes it has. None: the data is anything else, or not whole.
    """

def parse_assign(
    data: bytes, /
) -> tuple[int, list[int], int, int, str, int, bool, int, int, int, int, tuple[int, ...]] | None:
    """Return what all of the data asks for: Releases, and then an Assign, which asks for at most 15 spares.

    That is the number of Releases, the leases that they give back, and the fields of the Assign. None: the
    data is anything else, or not whole.
    """

def parse_request(
    data: bytes, current: dict[str, T], /
) -> (
    tuple[int, list[int], int, list[T]]
    | tuple[int, list[int], int, str, int, bool, int, int, int, int, int]
    | tuple[int, list[int], int, int, str, int, bool, int, int, int, int, tuple[int, ...]]
    | None
):
    """Return what `parse_attach` returns, or else what `parse_put` does, or `parse_assign`."""

def publish_put(
    data: bytes,
    parsed: tuple[int, list[int], int, str, int, bool, int, int, int, int, int],
    owner: tuple[int, int, int],
    window: tuple[int, int],
    span: tuple[int, int],
    region: int,
    generation: int,
    created_ns: int,
    lease: int,
    line: int,
    rights: int,
    word: int,
    memory: object,
    offset: int,
    /,
) -> tuple[int, bytes, bytes, int]:
    """Make the sealed object of a Put that `parse_put` found in the data; note it, and say it on the board.

    The owner is a uid, a gid and a pid, window and span each an address and a size; `word` is the address of
    the region's line in the board's memory, or 0. A record is written at an offset of the memory of a state
    file, as `write_record` does; not with the offset 0. Returns a read-only descriptor, which the caller
    owns, the frame of the Published, its grant as `pack_published` takes it, and 0; or, without a record, the
    number of the error for which the object has no identity. OSError: a step is refused, and nothing is left.
    ValueError: no record is there.
    """

def identify(descriptor: int, /) -> tuple[int, int, int, int]:
    """Return device, inode, time of birth in ns (0: unknown) and maker's uid of an object. OSError."""

def write_record(
    memory: object,
    offset: int,
    word: int,
    descriptor: int,
    name: str,
    owner: tuple[int, int, int],
    numbers: tuple[int, ...],
    /,
) -> None:
    """Write a record of a state file at an offset of its memory, with the object's identity; last the word.

    The owner is a uid, a gid and a pid; the ten numbers are as `shmhost.core.records` has them. OSError: the
    object has no identity. ValueError: no record is there.
    """

def set_record(memory: object, offset: int, word: int, /) -> None:
    """Set the word of a record with one store; 0: there is no record any more. ValueError as before."""

def make_sealed(label: bytes, capacity: int, header: bytes, data: bytes, start: int, size: int, /) -> int:
    """Return a read-only descriptor of a new memfd of these bytes, which nobody can write: header, then data.

    OSError: the system refuses one of the steps, and nothing is left.
    """

def make_spare(label: bytes, capacity: int, /) -> tuple[int, int]:
    """Return a read-write and a read-only descriptor of a new memfd, which cannot grow.

    OSError: the system refuses one of the steps, and nothing is left.
    """

def change_name(call: int, path: bytes, other: bytes, /) -> int:
    """Have a thread apart (see `Sealer`) make a call on the name of a file, and wait; return an errno, or 0.

    The calls: 0 make the file, empty, which is new; 1 link it under the other name; 2 rename it to that;
    3 unlink it. OSError: there is no thread.
    """

def can_work_apart() -> bool:
    """Whether threads can have descriptors of their own here, and so leave none open: see `Sealer`."""

def pack_published(request: int, lease: int, grant: bytes, /) -> bytes:
    """Return the whole frame of a Published without spares; the grant is packed as for `pack_opened`."""

def dict_count(index: Any, data_size: int, /) -> int:
    """Check the index of a dict, whose values lie in so many bytes of data; return the number of its keys.

    This and the two below: ValueError for an index that breaks the rules of `shm_dict.h`.
    """

def dict_find(index: Any, data_size: int, key: object, /) -> tuple[int, int, bytes] | None:
    """Return offset, size and description of the value of a key, or None.

    TypeError, UnicodeEncodeError: this cannot be a key.
    """

def dict_records(index: Any, data_size: int, start: int, stop: int, /) -> list[tuple[str, int, int, bytes]]:
    """Return these records, each with its key, and offset, size and description of the value."""

def dict_make(
    keys: list[str],
    offsets: list[int],
    sizes: list[int],
    kinds: list[int],
    descriptions: list[bytes],
    lead: int,
    seed: int,
    /,
) -> bytes | None:
    """Return an index. The lists have one length, but for the descriptions: `kinds` are positions in them.

    With a `lead`, the bytes of the payload before the index, the data follows it at the next multiple of 64,
    and offsets count from there.
    None: a bucket has too many keys, so take another seed. KeyError: two keys are the same text.
    UnicodeEncodeError: a key is not Unicode. OverflowError: one is too long.
    """

def value_again(mapped: Mapping[str, object], arenas: Mapping[str, ArenaReader], name: str, /) -> Any:
    """Return the value of a name that is mapped and current, or in one of the arenas; None: ask the host."""

class Exporter:
    """The base of handles with a buffer: that of what their `_exported()` returns."""

    def _exported(self) -> Any:
        """Return an object with a buffer. TypeError, BufferError: there is none."""

class Current:
    """The base of what stands for a region: whether that is current, by a line of the board."""

    def is_current(self) -> bool:
        """Whether this generation is still the current one of its name."""
    def _is_granted(self) -> bool | None:
        """Whether it is current, and the rights to it as they were when it was granted.

        None without a line, or without a living host: then the host must be asked.
        """
    def _was_current(self) -> bool:
        """Whether it was current when the host last said something; False without a line."""
    def _ask_current(self) -> bool:
        """Ask the host; called by `is_current`."""
    def _make_by(self, memory: object, make: object, before: object, after: object, /) -> None:
        """Have `value_again` return make(*before, memory, *after), or without `make` a slice of the memory.

        `memory` is a weak reference; the slice is `before`.
        """
    def _follow_line(
        self, board: object, is_open: int, owner: int, line: int, region: int, rights: int, /
    ) -> None:
        """Look at the line at this address from now on, while the word at `is_open` is not 0.

        `board` keeps all this memory.
        """

class Space:
    """The address space's books and gate, as the fast road uses them; see `holding.c`."""

    def __init__(
        self,
        starts: list[int],
        found: dict[int, Any],
        interval: type,
        reserved: list[tuple[int, int]],
        acquire: Callable[..., object],
        release: Callable[[], object],
        is_owned: Callable[[], bool],
        items: deque[Any],
        drain: Callable[[], None],
        stuck: Callable[[Any], None],
        /,
    ) -> None: ...
    def map(self, interval: tuple[int, int, Any], descriptor: int, flags: int, /) -> int:
        """Note an interval in the books and map it, or neither; return its address or -errno.

        -EALREADY: another one is in the way. Inside of the gate.
        """

class Holding:
    """A region that the fast road has mapped, with its lease. Calling it ends it."""

    address: int
    capacity: int
    grant: Any
    lane: Lane

    def __call__(self) -> None:
        """Have it unmapped, and its lease given back, now or by whoever is inside the gate. Never waits."""
    def lend(self, descriptors: list[int], /) -> int:
        """Do as that of a Kept."""
    def move(self, lane: Lane, lease: int, /) -> bool:
        """Have this lease of that connection from now on, kept there, too; False: it is over."""
    def finish(self) -> None:
        """Do so inside of the gate."""
    def give_back(self) -> None:
        """Give the lease back."""
    def become(self, mapping: object, hold: object, /) -> bool:
        """Have the books hold `mapping` instead, and its end submit `hold`. False: it has ended."""

class Held:
    """The part of a handle: its descriptor, and the memory that its mapping lives by.

    Before it is mapped it has a lease of a `lane` instead, and no memory.
    """

    memory: Any
    is_taken: bool
    lane: Lane | None
    lease: int

    def lend(self, descriptors: list[int], /) -> int:
        """Do as that of a Kept."""
    def move(self, lane: Lane, lease: int, /) -> bool:
        """Do as that of a Holding."""
    def map(self, grant: tuple[Any, ...], /) -> bool:
        """Map what is not mapped yet, inside of the gate; False: the plain road must say why it cannot be."""
    def give(self, descriptors: list[int], lease: object, /) -> None:
        """Pass on descriptor and lease, unless it is mapped or closed: `lease._is_over` becomes False."""
    def close(self) -> bool:
        """Close it; False when its parts were taken."""
    def take(self, descriptors: list[int], /) -> Any:
        """Pass the descriptor on to a list that owns it, and return the memory; None when it is closed."""

class Home:
    """The host that a connection leads to: its path, its name, and the socket, which stays the caller's.

    A thread hands what is kept here back to the next host of the same family when this one is gone.
    """

    def __init__(self, path: str, host: str, socket: int, /) -> None: ...
    def owners(self) -> list[Holding | Held | Kept | Ledger | ArenaOwner]:
        """Return the objects that keep something here."""
    def hasten(self) -> bool:
        """Look for the next host now; return whether arenas of this process are still to be handed back."""
    def is_host_of(self, socket: int, /) -> bool:
        """Whether the host at the other end of a socket is of the same user as this one."""
    def unplug(self) -> None:
        """Take note that the socket is about to be closed."""
    def end(self) -> None:
        """Hand nothing back from now on."""

class Kept:
    """A copy of a region's descriptor, kept for a lease until the end of this object."""

    lease: Any

    def __init__(self, home: Home, number: int, descriptor: int, lease: object, /) -> None: ...
    def lend(self, descriptors: list[int], /) -> int:
        """Add a copy to a list that owns it; return the number of the region. 0: nothing is kept."""
    def move(self, home: Home, /) -> None:
        """Keep it there from now on."""
    def close(self) -> None:
        """Keep it no more."""

def rest_keeper() -> int:
    """End the thread that hands regions back, if it is idle; return how many descriptors only it has.

    Its counter is not among them.
    """

class Lane:
    """The fast road of one connection; see `lane.c`."""

    reader: int
    is_ready: bool
    is_lost: bool
    unfinished: int
    id: int
    began_ns: int
    pending: Any
    reading: Any
    host_id: str
    home: Home | None
    outbox: Any

    def __init__(
        self,
        descriptor: int,
        fields: int,
        space: Space,
        pendings: dict[int, Any],
        users: set[Any],
        unsent: deque[bytes],
        ids: Iterator[int],
        holds: dict[Any, None],
        items: deque[Any],
        drain: Callable[[], None],
        leave: Callable[[Any], None],
        grant: type,
        check_name: Callable[[str], str],
        /,
    ) -> None: ...
    def attach(self, kind: type | None, client: object, names: str | tuple[str, ...], /) -> Any:
        """Open regions in one trip and map them. False: nothing was sent. None: not finished."""
    def put(
        self,
        kind: type,
        client: object,
        name: str,
        mode: int,
        replace: bool,
        data: Any,
        metadata: bytes | None,
        /,
    ) -> Any:
        """Put a small value in one trip: bytes, or an array that the metadata describes.

        False, None: as `attach`; False also if the value is too long, or Python must check an argument.
        """
    def assign(
        self,
        kind: type,
        client: object,
        owned: list[int],
        region: int,
        name: str,
        mode: int,
        replace: bool,
        size: int,
        data_size: int,
        metadata: int,
        metadata_size: int,
        spares: tuple[int, ...],
        /,
    ) -> tuple[Any, list[tuple[int, int, int]]] | Literal[False] | None:
        """Name and publish a spare in one trip and map it; return a handle, and what spares came.

        Their descriptors are in `owned`. False, None: as `attach`.
        """
    def renew(self, pending: object, reading: list[Any], /) -> None:
        """Give it what the next request needs."""
    def queue_late(self) -> bool:
        """Have the caller send the Releases that wait, from its queue; whether there are any."""
    def take_turn(self, me: int, /) -> bool:
        """Become the one that reads, unless another one does. A thread, or a greenlet of gevent."""
    def close(self) -> None:
        """Take no more requests."""
    def shut(self) -> None:
        """Send nothing more: the socket is about to be closed."""
    def detach(self) -> None:
        """Forget the connection: it belongs to the parent process."""

class Sealer:
    """A thread that changes and seals objects, without the GIL. OSError: it cannot start.

    It works apart: a client can make it wait as long as it likes, and not even SIGKILL ends it then. So it
    has no descriptor but the one that it works on, where `can_work_apart`, and a killed process leaves no
    other one open.
    """

    def seal(
        self, writer: int, reader: int, cut: bool, capacity: int, header: bytes, seals: int, wait_ns: int, /
    ) -> tuple[int, int] | None:
        """Write the header of an object, if any, and seal it; with `cut`, give it its capacity first.

        Seals are added once more if the kernel has waited for pages in use. The descriptors stay the
        caller's, and open until it is done. Returns what failed, and errno: 0 nothing, 1 a system call, 2 the
        size is another, 3 the header is; or None if that takes longer than `wait_ns`: then `take` must be
        next.
        """
    def publish(
        self,
        parsed: tuple[int, list[int], int, int, str, int, bool, int, int, int, int, tuple[int, ...]],
        writer: int,
        reader: int,
        cut: bool,
        owner: tuple[int, int, int],
        window: tuple[int, int],
        spares: tuple[tuple[int, int, int], ...],
        address: int,
        generation: int,
        created_ns: int,
        lease: int,
        line: int,
        rights: int,
        word: int,
        wait_ns: int,
        /,
    ) -> tuple[bytes, bytes] | tuple[int, int] | None:
        """Seal the spare of an Assign that `parse_assign` found, and say on the board that it is there.

        Owner, window and word are as for `publish_put`; each of the spares is a region, its address and its
        capacity. Returns the frame of the Published and its grant, or what `seal` does if that failed.
        """
    def take(self) -> tuple[int, int] | None:
        """Wait until it is done; return what `seal` does. None: nothing was begun."""

class Filler:
    """A thread that gives objects their pages, without the GIL. It starts with the first one.

    It does not survive a fork.
    """

    def add(self, descriptor: int, capacity: int, /) -> int:
        """Have an object filled, which stays the caller's; return a ticket, or 0 if it cannot be."""
    def skip(self, ticket: int, /) -> None:
        """Have an object filled no further than the piece that is under way. It may be filled already."""
    def close(self) -> None:
        """Fill no more. Never waits; may be called again."""

class Closer:
    """A thread that closes descriptors one after the other, without the GIL. It starts with the first."""

    def close_later(self, *descriptors: int) -> bool:
        """Take over one or two descriptors, and close them soon. False: it cannot, and has taken none."""
    def end(self) -> None:
        """Return when all are closed; it takes no more."""

def flush_late() -> None:
    """Send every Release that waits for a request of its connection. For tests."""

def opened_read(data: bytes, fields: int, /) -> tuple[int, list[tuple[Any, ...]]] | None:
    """Return the id and the grants of an Opened or Published that the fast road takes, or None."""

class Ledger:
    """The ledger of a client, mapped and sealed: it notes there which values of arenas it uses.

    The descriptor stays the caller's. OSError: it cannot be mapped.
    """

    def __new__(cls, descriptor: int, /) -> Self: ...
    def _keep(self, home: Home, number: int, descriptor: int, /) -> None:
        """Keep a copy of the descriptor for the next host until the end of this object, if that can be."""
    def lend(self, descriptors: list[int], /) -> int:
        """Add a copy to a list that owns it; return the number of the ledger. 0: nothing is kept."""
    def move(self, home: Home, /) -> None:
        """Keep it there from now on."""

class HeldValue:
    """A value of an arena: its buffer is its bytes, which do not change while it or a view of it lives."""

    address: int
    description_address: int
    size: int
    root: int
    root_size: int
    generation: int
    word: int  # of its entry: see `shm_arena_layout.h`
    entry: int
    published_ns: int
    flags: int
    description: bytes
    def __buffer__(self, flags: int, /) -> memoryview: ...

class ArenaReader:
    """An arena that is mapped here. A subclass has `_decode(held)` and `_fail(errno, name)`."""

    def __getitem__(self, name: str, /) -> Any: ...
    def _move(self, line: int, keeper: object, /) -> None: ...
    def _start(
        self,
        address: int,
        home: int,
        span: int,
        size: int,
        line: int,
        region: int,
        ledger: Ledger,
        keeper: object,
        current: Current | None,
        /,
    ) -> int:
        """Read the arena at an address; returns an errno or 0. `keeper` keeps it mapped, and the board."""
    def _remember_values(self) -> None:
        """Return the same value again for a name, as long as it lives and is current."""
    def _get(self, name: str, missing: Any, /) -> Any:
        """Return the value of a name, or `missing`."""
    def _hold(self, name: str, /) -> HeldValue | None:
        """Return the value of a name as its bytes."""
    def _plan(self, description_address: int, plan: tuple[Any, ...], /) -> None:
        """Have values with this description made by (make, before, after, size, again)."""
    def _entry(self, name: str, /) -> tuple[int, int] | None:
        """Return the number of the entry of a name, and its word; None: the name never had a value."""
    def _names(self, start: int, /) -> tuple[list[str], int]:
        """Return up to 1000 names from an entry on, and where to go on; 0: there are no more."""
    def _changed(self, since: int, /) -> list[tuple[str, int, bool]]:
        """Return name, generation and presence of all that changed after a generation."""
    def _counts(self) -> tuple[int, int, int, int]:
        """Return the number of names, the bytes of their values, the last generation, and the changes."""
    def _newer(self, name: str, after: int, /) -> HeldValue | Literal[False] | None:
        """Return the value after a generation; False: not yet; None: absent, or nobody knows but the host."""
    def _await(
        self, name: str, after: int, waker: int, wakes: int, wait_ns: int, /
    ) -> HeldValue | int | None:
        """Do as `_newer`, but sleep once before it is False; then it is an errno, or 0."""
    def _arm_for(self, name: str, after: int, /) -> HeldValue | int | None:
        """Do as `_newer`, but `_arm` before it is False; then it is what `_arm` returns."""
    def _value(self, held: HeldValue, /) -> Any:
        """Return what `_get` returns for this value."""
    def _sleep(
        self,
        entry: int | None,
        seen: int,
        line: int,
        changes: int,
        owner: int,
        waker: int,
        wakes: int,
        wait_ns: int,
        /,
    ) -> int:
        """Sleep until an entry, or with None anything, changes; or line, owner or waker; returns an errno."""
    def _arm(self, entry: int | None, /) -> int:
        """Have the ledger's eventfd written when an entry, or with None anything, changes. 0: it cannot."""
    def _disarm(self, place: int, /) -> None:
        """Undo `_arm`, with what it returned."""

class ArenaOwner(ArenaReader):
    """An arena that this process writes. A subclass has `_check(name)` and `_put_other(name, value)`, too."""

    def __setitem__(self, name: str, value: Any, /) -> None: ...
    def __delitem__(self, name: str, /) -> None: ...
    def _make(
        self,
        address: int,
        home: int,
        span: int,
        size: int,
        names: int,
        region: int,
        line: int,
        socket: int,
        memory: object,
        /,
    ) -> int:
        """Own an arena that is mapped for writing, with a copy of the socket; return an errno or 0."""
    def _populate(self, start: int, end: int, /) -> int:
        """Let these bytes exist, and what it grows by as well; returns an errno or 0. Before `_ready`."""
    def _ready(self) -> int:
        """Have the host publish the arena; returns an errno or 0."""
    def _grow(self, size: int, /) -> int:
        """Have the host let it grow; returns an errno or 0."""
    def _close(self) -> None:
        """Stop being the owner."""
    def _keep(self, home: Home, number: int, descriptor: int, /) -> None:
        """Keep a copy of the read-write descriptor for the next host, if that can be."""
    def _holders(self) -> list[tuple[int, int, int]]:
        """Return number, pid and blocks of the ledgers that keep replaced values from being used again."""
    def _state(self) -> tuple[int, int, int, int]:
        """Return the bytes of the object, those in blocks, the number of replaced values, and of ledgers."""
    def _room(self) -> int:
        """Return the bytes of the longest run of pages that is free; 0 if it is closed."""
    def _put(self, name: str, value: Any, /) -> int:
        """Put a value; return its generation."""
    def _put_many(self, names: list[str], values: list[Any], /) -> None:
        """Put values in their order."""
    def _kind(self, key: object, description: bytes, array: type, /) -> None:
        """Note the description of arrays whose dtype has an id, and a shape."""
    def _loan(self, size: int, description: bytes, flags: int, name: str, /) -> Loan:
        """Take a block to be filled."""

class Loan:
    """A block of an arena that its owner fills; its buffer can be written."""

    address: int
    def publish(
        self, name: str, root: int = 0, root_size: int = 0, size: int = 0, description: bytes = b"", /
    ) -> int:
        """Publish it; return its generation. With a size, only that is data, and the description follows."""
    def discard(self) -> None:
        """Give it back, unless it is published."""
    def __buffer__(self, flags: int, /) -> memoryview: ...

def dlpack_address(capsule: object, /) -> tuple[int, bool]:
    """Return the address of the struct in a capsule of DLPack's; whether it has a version. TypeError."""

def arrow_address(capsule: object, /) -> int:
    """Return the address of the struct in a capsule of Arrow's; TypeError: it is another one."""

def arrow_pull(stream: object, /) -> tuple[object, int, list[int]]:
    """Read the stream of a capsule to its end, without the GIL.

    Returns what keeps the structs, the address of the schema, and that of each batch. OSError: its own error.
    """

def arrow_check(value: Any, /) -> tuple[int, int, int, str, tuple[str, ...]]:
    """Check all structs of the Arrow value in a buffer, which has nothing else.

    Returns flags, number of batches, length, format, and names of columns. This and the three below:
    ValueError for what breaks the rules of `shm_arrow.h`.
    """

def arrow_schema(value: Any, /) -> object:
    """Return a capsule with a copy of the schema."""

def arrow_array(value: Any, index: int, /) -> object:
    """Return a capsule with a copy of the structs of a batch; until it is released it keeps the buffer."""

def arrow_stream(value: Any, /) -> object:
    """Return a capsule with a stream of all batches; it and each of them keep the buffer."""

def arrow_offsets(address: int, skip: int, total: int, width: int, /) -> tuple[int, int, bytes | None]:
    """Return what offsets refer to, from item `skip` on: start and end, and the offsets from there.

    Here and below None stands for numbers that can stay; ValueError: they are corrupt.
    """

def arrow_list_views(offsets: int, sizes: int, total: int, width: int, /) -> tuple[int, int, bytes]:
    """Return what list views refer to: start and end, and their offsets from there."""

def arrow_struct(address: int, /) -> tuple[int, int, int, tuple[int, ...], tuple[int, ...], int]:
    """Return length, null count and offset of a struct ArrowArray; then the addresses of its parts."""

def arrow_dense(types: int, offsets: int, total: int, ids: bytes, /) -> tuple[list[tuple[int, int]], bytes]:
    """Return what a dense union refers to: start and end for each child, and its offsets from there."""

def arrow_runs(ends: int, number: int, width: int, first: int, count: int, /) -> tuple[int, int, bytes]:
    """Return the first run of `count` items, the one behind the last, and their ends counted from `first`."""

def arrow_views(
    views: int, validity: int, total: int, buffers: int, /
) -> tuple[list[tuple[int, int]], bytes | None]:
    """Return what views refer to: start and end for each buffer, and the views for these."""

def arrow_type(name: bytes, /) -> tuple[int, int, int, int, int]:
    """Return a type's kind, whether it has a validity, width, buffers, children: see `shm_arrow_layout.h`.

    ValueError: Arrow has none whose format has this name.
    """
