"""The engine: what a host asks of zenoh. Decides nothing.

zenoh calls back on threads of its own. Its words go into a queue of limited length, and the thread of the
event loop is woken; calls of zenoh, which may wait for a slow link, are made by threads of this module. So
neither ever waits for the other.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shmhost.fleet.config import FleetConfig
from shmhost.fleet.events import BUSY, Absent, Event, Lost, News, Present, Question, Refusal
from shmhost.fleet.names import MAX_HOSTS, MAX_OF_NAME, Names
from shmhost.fleet.zenoh_settings import MAX_RECEIVED, settings_of, zenoh_module
from shmprotocol.errors import HostError, HostGone, HostTimeout, ShmError

MAX_QUEUE = 4096  # events that the loop has not taken yet; of hosts that come and go, as many again
MAX_QUESTION = 2**16  # bytes, as of news
MAX_WORK = 256  # answers that threads have not begun with; more questions for chunks are refused
MAX_TOLD = 4096  # messages that the links have not taken; of cards, by which others see that, as many again
MAX_UNANSWERED = 4096  # answers and refusals under way; more questions are dropped, and get none
THREADS = 4  # for questions, and as many for answers: one that waits for a slow peer leaves the others
INTRODUCTION_S = 3.0  # a link with TLS takes five times the way there and back


class Engine:
    """The links of one host to its fleet. `handle` gets each event, in the thread of the loop.

    `open` and `close` wait: call them in a thread. All other methods return at once. Before `open`, no host
    can be reached; it may be called again when it has failed.
    """

    def __init__(self, plan: FleetConfig, address: str, handle: Callable[[Event], None]) -> None:
        self._plan = plan
        self._prefix = f"shmhost/{plan.fleet}"
        self._address = address
        # Threads of zenoh change it, one at a time.
        self._names = Names(self._gives_way, MAX_HOSTS if plan.access.peers is None else MAX_OF_NAME)
        self._naming = threading.Lock()
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._queue: collections.deque[Event] = collections.deque()
        self._lock = threading.Lock()  # of what several threads change
        self._is_woken = False
        self._has_lost = False
        self._calls = ThreadPoolExecutor(THREADS, "shmhost-ask")
        self._answers = ThreadPoolExecutor(THREADS, "shmhost-answer")  # each has one chunk in memory at most
        self._news = ThreadPoolExecutor(1, "shmhost-news")  # one, so that they stay in their order
        self._told = 0  # messages that are under way
        self.untold: int = 0  # messages that were dropped, as the links took too few
        self._work = 0  # answers that are under way
        self._session: Any = None
        self._declared: list[Any] = []  # zenoh undeclares what is collected

    def open(self) -> None:
        """Open the links and listen. HostError: an endpoint cannot be used, or zenoh is not installed."""
        zenoh = zenoh_module()
        try:
            self._session = session = zenoh.open(settings_of(zenoh, self._plan))
            live, ask, news = (f"{self._prefix}/{kind}" for kind in ("live", "ask", "news"))
            hosts, own = session.liveliness(), f"{self._plan.name}/{self._address}"
            self._declared = [
                session.declare_queryable(f"{ask}/{own}/*", _callback(zenoh, self._asked)),
                session.declare_subscriber(f"{news}/*/*/all", _callback(zenoh, self._heard)),
                session.declare_subscriber(f"{news}/*/*/{self._plan.name}", _callback(zenoh, self._heard)),
                hosts.declare_subscriber(f"{live}/*/*", _callback(zenoh, self._lives), history=True),
            ]
        except zenoh.ZError as error:
            session, self._session = self._session, None
            if session is not None:
                session.close()
            raise HostError(f"the fleet {self._plan.fleet!r} of {self._plan.path}: {error}") from None

    def appear(self) -> None:
        """Let others see this host. For a thread."""
        token = self._session.liveliness().declare_token(
            f"{self._prefix}/live/{self._plan.name}/{self._address}"
        )
        self._declared.append(token)

    def close(self) -> None:
        """Close all links. May be called again."""
        session, self._session = self._session, None
        for pool in (self._calls, self._answers, self._news):
            pool.shutdown(wait=False, cancel_futures=True)
        if session is not None:
            self._declared.clear()
            session.close()

    def links(self) -> int:
        """Return the number of hosts, and observers, to which there is a link. For a thread."""
        session = self._session
        return len(session.info.peers_zid()) + len(session.info.routers_zid()) if session is not None else 0

    def introduce(self) -> None:
        """Have a peer that connects to all hosts tell them of each other. For a thread, which waits."""
        zenoh, before = zenoh_module(), self.links()
        with contextlib.suppress(zenoh.ZError), zenoh.open(settings_of(zenoh, self._plan, is_observer=True)):
            end_s = time.monotonic() + INTRODUCTION_S
            while self.links() <= before + 1 and time.monotonic() < end_s and self._session is not None:
                time.sleep(0.05)

    def name_of(self, address: str) -> str:
        """Return the name of a host that is there, as its keys have it; "" if it is not."""
        return self._names.of(address)

    def left_out(self) -> int:
        """Return how often a host came for which there was no place."""
        return self._names.left_out

    def session_id(self) -> str:
        """Return the identity of the session, which links have on their other side. For a thread."""
        return str(self._session.info.zid())

    def link_address(self, session_id: str) -> str | None:
        """Return the address at the other end of a link to a session; None: there is none. For a thread."""
        session = self._session
        for link in session.info.links() if session is not None else ():
            if str(link.zid) == session_id:
                host = str(link.dst).partition("/")[2].rpartition(":")[0]
                return host.removeprefix("[").removesuffix("]")
        return None

    def tell(self, data: bytes, peer: str = "all", *, is_card: bool = False) -> None:
        """Send a message to all, or to the hosts of a name, as soon as that can be done.

        One too many is dropped: hosts see by the number of the next, or of a card, that they miss it.
        """
        if self._told >= (2 * MAX_TOLD if is_card else MAX_TOLD):
            self.untold += 1
            return
        self._count_told(1)
        block = zenoh_module().CongestionControl.BLOCK
        key = f"{self._prefix}/news/{self._plan.name}/{self._address}/{peer}"

        def call(session: Any) -> None:
            session.put(key, data, congestion_control=block)
            self._count_told(-1)

        self._call(self._news, call, lambda _: self._count_told(-1))

    def ask(
        self, address: str, data: bytes, timeout_s: float, *, is_bulk: bool = False
    ) -> asyncio.Future[bytes]:
        """Ask one host; the result is its answer. One that `is_bulk` lets others overtake it.

        Refusal: it refuses. HostGone: it cannot be reached. HostTimeout.
        """
        future: asyncio.Future[bytes] = self._loop.create_future()
        answers: list[Any] = []

        def done() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(_settle, future, answers)

        def call(session: Any) -> None:
            zenoh = zenoh_module()
            handler = zenoh.handlers.Callback(answers.append, done)
            priority = zenoh.Priority.DATA_LOW if is_bulk else zenoh.Priority.DATA
            session.get(
                f"{self._prefix}/ask/{self._name_of(address)}/{address}/{self._plan.name}",
                handler,
                payload=data,
                timeout=timeout_s,
                priority=priority,
                congestion_control=zenoh.CongestionControl.BLOCK,  # of the answer too
            )

        def failed(error: Exception) -> None:
            answers.append(error)
            done()

        self._call(self._calls, call, failed)
        return future

    def _call(
        self,
        pool: ThreadPoolExecutor,
        call: Callable[[Any], None],
        failed: Callable[[Exception], object] = lambda _: None,
    ) -> None:
        def run() -> None:
            session = self._session
            try:
                if session is None:
                    raise HostGone("this host has left its fleet")
                call(session)
            except Exception as error:  # zenoh's are not all of one class; the links may be closed meanwhile
                failed(error)

        try:
            pool.submit(run)
        except RuntimeError as error:  # closed
            failed(error)

    def _lives(self, sample: Any) -> None:
        *_, name, address = str(sample.key_expr).split("/")
        if address == self._address:
            return
        with self._naming:
            if sample.kind != zenoh_module().SampleKind.PUT:
                if self._names.leave(address, name):
                    self._put(Absent(address))
            elif self._names.appear(address, name):  # nobody takes the place of another
                self._put(Present(address))

    def _heard(self, sample: Any) -> None:
        *_, name, address, _ = str(sample.key_expr).split("/")
        if address == self._address or len(sample.payload) > MAX_QUESTION:
            return
        with self._naming:
            is_from_it = self._names.hear(address, name)  # also when its coming was missed
        if is_from_it:
            self._put(News(address, sample.payload.to_bytes()))

    def _gives_way(self, address: str) -> None:
        self._put(Absent(address))

    def _name_of(self, address: str) -> str:
        name = self._names.of(address)
        if not name:
            raise HostGone("the host is not there any more")
        return name

    def _asked(self, query: Any) -> None:
        """Queue a question; zenoh finishes it when it is dropped, answered or not."""
        if self._work > MAX_UNANSWERED:
            return
        key, payload = query.key_expr, query.payload

        def finish(answer: Callable[[], object]) -> None:
            def call(_session: Any) -> None:
                with query:
                    try:
                        answer()
                    finally:
                        self._count_work(-1)

            self._count_work(1)
            self._call(self._answers, call)

        def work(function: Callable[[], bytes]) -> None:
            def answer() -> None:
                try:
                    data = function()
                except (OSError, ShmError) as error:
                    query.reply_err(str(error)[:500].encode())
                else:
                    query.reply(key, data)

            finish(answer)

        if payload is None or len(payload) > MAX_QUESTION:
            finish(lambda: query.reply_err(b"a question has 1 to 65536 bytes"))
            return
        question = Question(
            str(key).rpartition("/")[2],
            payload.to_bytes(),
            lambda data: finish(lambda: query.reply(key, data)),
            work,
            lambda text: finish(lambda: query.reply_err(text.encode())),
        )
        if self._work > MAX_WORK or not self._put(question):
            question.refuse(f"{BUSY}: more questions come than are answered")

    def _count_told(self, change: int) -> None:
        with self._lock:
            self._told += change

    def _count_work(self, change: int) -> None:
        with self._lock:
            self._work += change

    def _put(self, event: Event) -> bool:
        with self._lock:
            is_rare = isinstance(event, Absent | Present)  # nothing would say it again soon
            is_full = len(self._queue) >= (2 * MAX_QUEUE if is_rare else MAX_QUEUE)
            if is_full:
                self._has_lost = True
            else:
                self._queue.append(event)
            must_wake, self._is_woken = not self._is_woken, True
        if must_wake:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._drain)
        return not is_full

    def _drain(self) -> None:
        """Handle what has come; a part of it at a time, so that clients of the host have their turns."""
        for _ in range(16):
            with self._lock:
                if not self._queue:
                    event: Event | None = Lost() if self._has_lost else None
                    self._has_lost = False
                    self._is_woken = event is not None
                else:
                    event = self._queue.popleft()
            if event is None:
                return
            self._handle(event)
        self._loop.call_soon(self._drain)


def text_of(error: Any) -> str:
    """Return the text of a refusal."""
    return bytes(error.payload.to_bytes()[:500]).decode(errors="replace")


def _settle(future: asyncio.Future[bytes], answers: list[Any]) -> None:
    """Set the result of a question, in the thread of the loop."""
    if future.done():
        return
    answer = answers[0] if answers else None
    if answer is None:
        future.set_exception(HostGone("the host cannot be reached"))
    elif isinstance(answer, Exception):
        future.set_exception(HostGone(f"the host cannot be reached: {answer}"))
    elif answer.ok is not None:
        if len(answer.ok.payload) > MAX_RECEIVED:
            future.set_exception(Refusal(f"the answer has {len(answer.ok.payload)} bytes"))
        else:
            future.set_result(answer.ok.payload.to_bytes())
    else:
        reason = text_of(answer.err)
        is_late = reason == "Timeout"  # zenoh's own word
        future.set_exception(HostTimeout("the host does not answer") if is_late else Refusal(reason))


def _callback(zenoh: Any, function: Callable[[Any], None]) -> Any:
    return zenoh.handlers.Callback(function)
