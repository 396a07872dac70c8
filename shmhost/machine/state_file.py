"""The state file beside a socket, `PATH.state`: what a successor needs to take back what clients hold.

It is mapped, so that what was written stays when this process is killed, and a note takes no system call. It
goes with a host that ends cleanly, as nothing is left then. It belongs to whoever holds the lock of the
socket, and nobody else may read or write it: whoever can, decides what a successor believes.

The first page: magic, version, size of a record; the name of the family of hosts that share it, the boot, how
many hosts of the family came before, a number that no region has reached, where the last boards were, and the
latest reply by which a region took the name of another. Records follow.
"""

from __future__ import annotations

import logging
import mmap
import os
import re
import secrets
import stat
import struct
from pathlib import Path

from shmhost.core import records
from shmhost.core.ledgers import Ledger
from shmhost.core.records import WORD_OF_CURRENT, LedgerRecord, OwnerState, Record
from shmhost.core.regions import Region
from shmhost.core.window import Span
from shmhost.machine.processes import process_of
from shmhost.machine.socket_file import Lock
from shmprotocol.errors import HostError, InvalidArgument
from shmprotocol.native import builtins
from shmprotocol.wire.names import State

LOG = logging.getLogger("shmhost")

_MAGIC = b"shmstate"
_VERSION = 2
_HEADER = struct.Struct("<8sII16s40sQQ")  # the fields of the first page
_CEILING_AT = _HEADER.size - 8
_BOARD = struct.Struct("<QQ")  # address and bytes of one board
_BOARDS_AT, _BOARDS = 256, 64  # more than hosts are killed before the addresses of the first are free again
_REPLY_AT, _REPLY = 2048, struct.Struct("<Q56xI")  # of state.c: an older region, and the bytes that were sent
_FIRST = 4096  # bytes before the first record
_CHUNK_MIN, _CHUNK_MAX = 64 * 1024, 1024 * 1024  # by so many bytes the file grows: 128 regions, then 2,048
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class StateFile:
    """A state file, and the book of a registry. HostError: the file is somebody else's. OSError: no space.

    `family` is a name that the hosts of one file share, `starts` how many there were before, `first_number`
    the first number that no region of theirs has. `records` are what the last one left, in no order.
    """

    starts: int
    first_number: int

    def __init__(self, path: str) -> None:
        self._path = path
        self._failed = False
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        try:
            self._check_owner(os.fstat(self._descriptor))
            self._open()
        except BaseException:
            os.close(self._descriptor)
            raise

    def _open(self) -> None:
        boot = _boot()
        header = os.pread(self._descriptor, _HEADER.size, 0)
        fields = _HEADER.unpack(header) if len(header) == _HEADER.size else (b"",) * 7
        is_ours = fields[:3] == (_MAGIC, _VERSION, records.SIZE) and fields[4].rstrip(b"\0") == boot
        if is_ours and re.fullmatch(rb"[0-9a-f]{16}", fields[3]):
            self.family, self.starts, self.first_number = fields[3].decode(), fields[5], fields[6]
        else:
            self.family, self.starts, self.first_number = secrets.token_hex(8), 0, 1
            os.ftruncate(self._descriptor, 0)
        size = max(os.fstat(self._descriptor).st_size // records.SIZE * records.SIZE, _FIRST + _CHUNK_MIN)
        os.posix_fallocate(self._descriptor, 0, size)  # no space is an error now, and not SIGBUS later
        self.memory: mmap.mmap = mmap.mmap(self._descriptor, size)  # see records.Book
        self._free: list[int] = []
        self.records: list[Record] = []
        self.ledgers: list[LedgerRecord] = []
        self.boards: list[Span] = self._read_boards()
        for offset in range(size - records.SIZE, _FIRST - 1, -records.SIZE):
            self._read(offset)
        self._note_reply()
        fields = (self.family.encode(), boot, self.starts + 1, self.first_number)
        packed = _HEADER.pack(_MAGIC, _VERSION, records.SIZE, *fields)
        # The magic comes last, alone: with part of the rest, a successor would begin at number 0.
        self.memory[len(_MAGIC) : _HEADER.size] = packed[len(_MAGIC) :]
        self.memory[: len(_MAGIC)] = _MAGIC

    def enter(self, region: Region) -> None:
        """Note a region that is about to be published; see `records.Book`."""
        region.record = offset = self.take()
        if not offset:
            return
        owner = region.owner
        assert region.object is not None
        is_plain = region.arena is None and not region.extent
        try:
            builtins.write_record(
                self.memory,
                offset,
                0 if not is_plain else WORD_OF_CURRENT | region.mode << 8 | region.rights << 32,
                region.object.reader(),
                region.name,
                (owner.uid, owner.gid, owner.pid),
                records.numbers_of(region),
            )
        except OSError as error:
            self.lose(region, error.errno or 0)
            return
        if not is_plain:
            self._complete(region)

    def _complete(self, region: Region) -> None:
        arena = region.arena
        if arena is None:
            self._write_more(region.record, 0, 0, region.extent, 0)
        else:
            arena.process = process = process_of(region.owner.pid)
            self._write_more(region.record, process.started, process.namespace, arena.span, OwnerState.WRITES)
        word = WORD_OF_CURRENT | region.mode << 8 | region.rights << 32
        builtins.set_record(self.memory, region.record, word)

    def take(self) -> int:
        """Return the offset of a free record; 0: there is none."""
        return self._free.pop() if self._free else self._grow()

    def lose(self, noted: Region | Ledger, error: int) -> None:
        """Take note that a record could not be written, for this error of the system."""
        self._free.append(noted.record)
        noted.record = 0
        self._log_once(error)

    def note_owner(self, region: Region, state: OwnerState) -> None:
        """Note what the owner of an arena does."""
        if region.record:
            self._set_flag(region.record, state)

    def enter_ledger(self, ledger: Ledger) -> None:
        """Note a new ledger, which has joined no arena."""
        ledger.record = offset = self.take()
        if not offset:
            return
        peer, numbers = ledger.peer, (ledger.number, *[0] * 9)
        try:
            who = peer.uid, peer.gid, peer.pid
            builtins.write_record(self.memory, offset, 0, ledger.object.reader(), "", who, numbers)
        except OSError as error:
            self.lose(ledger, error.errno or 0)
            return
        process = process_of(peer.pid)
        self._write_more(offset, process.started, process.namespace, 0, 0)
        builtins.set_record(self.memory, offset, records.LEDGER)

    def join(self, ledger: Ledger, arena: int) -> None:
        """Note that a ledger joins an arena, by the number of that."""
        if not ledger.record:
            return
        if ledger.joined < records.MAX_JOINED:
            at = ledger.record + records.JOINED_AT + 8 * ledger.joined
            self.memory[at : at + 8] = arena.to_bytes(8, "little")
            ledger.joined += 1
        else:
            self._set_flag(ledger.record, 1)

    def remove_ledger(self, ledger: Ledger) -> None:
        """Forget a ledger."""
        if ledger.record:
            self.forget(ledger.record)
            ledger.record = 0

    def _write_more(self, offset: int, *numbers: int) -> None:
        records.MORE.pack_into(self.memory, offset + records.MORE_AT, *numbers)

    def _set_flag(self, offset: int, flag: int) -> None:
        at = offset + records.MORE_AT + 24
        self.memory[at : at + 8] = flag.to_bytes(8, "little")

    def change(self, region: Region) -> None:
        """Note the state and the mode of a region."""
        if region.record:
            builtins.set_record(self.memory, region.record, records.word_of(region))

    def remove(self, region: Region) -> None:
        """Forget a region."""
        offset = region.record
        if offset:
            builtins.set_record(self.memory, offset, 0)
            self._free.append(offset)
            region.record = 0

    def forget(self, offset: int) -> None:
        """Forget a record, which no region has, or none any more."""
        builtins.set_record(self.memory, offset, 0)
        self._free.append(offset)

    def retire(self, record: Record) -> None:
        """Note the state of a region that is not back, which has lost its name."""
        builtins.set_record(self.memory, record.offset, records.word_of_record(record))

    def note_board(self, span: Span) -> None:
        """Note where the board is, in place of the oldest one."""
        offset = _BOARDS_AT + self.starts % _BOARDS * _BOARD.size
        self.memory[offset : offset + _BOARD.size] = _BOARD.pack(*span)

    def forget_boards(self) -> None:
        """Forget all boards but the own one."""
        for index in range(_BOARDS):
            if index != self.starts % _BOARDS:
                offset = _BOARDS_AT + index * _BOARD.size
                self.memory[offset : offset + _BOARD.size] = bytes(_BOARD.size)

    def _read_boards(self) -> list[Span]:
        data = self.memory[_BOARDS_AT : _BOARDS_AT + _BOARDS * _BOARD.size]
        return [Span(*pair) for pair in _BOARD.iter_unpack(data) if pair[1]]

    def store_number(self, number: int) -> None:
        """Note a number that no region has reached yet."""
        self.memory[_CEILING_AT : _CEILING_AT + 8] = number.to_bytes(8, "little")

    def close(self, *, remove: bool) -> None:
        """Close it; `remove` it too when no region is left. May be called again."""
        if self._descriptor < 0:
            return
        if remove:
            Path(self._path).unlink(missing_ok=True)
        self.memory.close()
        os.close(self._descriptor)
        self._descriptor = -1

    def _grow(self) -> int:
        """Return the offset of one more record, 0 if there is no space."""
        size = len(self.memory)
        chunk = min(max(size // 2, _CHUNK_MIN) // records.SIZE * records.SIZE, _CHUNK_MAX)
        try:
            os.posix_fallocate(self._descriptor, size, chunk)
            self.memory.resize(size + chunk)
        except OSError as error:
            self._log_once(error.errno or 0)
            return 0
        self._free += range(size + chunk - records.SIZE, size - 1, -records.SIZE)
        return self._free.pop()

    def _read(self, offset: int) -> None:
        try:
            record = records.read(self.memory[offset : offset + records.SIZE], offset)
        except InvalidArgument as error:
            LOG.warning("%s: %s", self._path, error)
            self.forget(offset)
            return
        if record is None:
            self._free.append(offset)
        elif isinstance(record, LedgerRecord):
            self.ledgers.append(record)
        else:
            self.records.append(record)

    def _note_reply(self) -> None:
        """Note that a region has lost its name, if the last host was killed between the reply and that."""
        older, sent = _REPLY.unpack_from(self.memory, _REPLY_AT)
        for index, record in enumerate(self.records):
            if sent and record.number == older and record.state is State.CURRENT:
                self.records[index] = record._replace(state=State.SUPERSEDED)
                self.retire(self.records[index])

    def _check_owner(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise HostError(f"{self._path} is not a file ({stat.filemode(status.st_mode)}): move it away")
        if status.st_uid != os.geteuid():
            why = f"belongs to uid {status.st_uid}, not to uid {os.geteuid()}"
            raise HostError(f"{self._path} {why}: remove it")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise HostError(f"{self._path} is open to others (mode {mode:04o}): chmod go-rwx it")

    def _log_once(self, error: int) -> None:
        if not self._failed:
            self._failed = True
            LOG.warning("a kill of this host would lose regions: %s: %s", self._path, os.strerror(error))


def open_state(path: str, lock: Lock) -> StateFile | None:
    """Return the state file of a host; None, and a line in the log, if it has to do without.

    Only who holds the lock may have it: two hosts would write over each other's records.
    """
    if not lock.is_held:
        return None
    try:
        return StateFile(path)
    except (OSError, HostError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        LOG.warning("a kill of this host would lose its regions: %s: %s", path, why)
        return None


def _boot() -> bytes:
    """Return the id of this boot: no object of an earlier one exists. Without /proc, none."""
    try:
        return _BOOT.read_bytes().strip()[:40]
    except OSError:
        return b""
