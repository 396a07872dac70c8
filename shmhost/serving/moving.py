"""Links as records, and links from them: see `state_records`. Waits for nothing."""

from __future__ import annotations

from shmhost.core.heritage import Give, Take
from shmhost.core.state_records import LinkRecord
from shmhost.serving.link import Link


def describe_link(link: Link, give: Give) -> LinkRecord:
    """Return the record of a link, which no Work is under way for, or one that can be left."""
    sock, process = give(link.socket.fileno()), give(-1 if link.pidfd is None else link.pidfd)
    queue, unread = link.outbox.record(give)
    may_return, rest = link.intake is not None, link.connection.rest
    return LinkRecord(sock, process, link.session.record(), may_return, rest, queue, unread)


def describe_ended(link: Link, sock: int) -> LinkRecord:
    """Return the record of a link that only a Work keeps, which can be left; the socket is at its end."""
    return LinkRecord(sock, -1, link.session.record()._replace(pending=0), False, b"", (), (0, 0))


def resume_link(link: Link, record: LinkRecord, take: Take) -> None:
    """Have a new link go on as the one in the record, once it is released."""
    link.session.resume(record.session)
    link.outbox.resume(((data, list(map(take, fds))) for data, fds in record.queue), record.unread)
    link.hold()
    link.connection.receive(record.rest)
    if record.session.is_greeted and not link.connection.is_inside_frame:
        link.deadline.stop()
