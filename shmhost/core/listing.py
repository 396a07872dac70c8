"""The answer to a List: the names that a peer may see, among others. Pure.

Of any number of names a peer may see none: so a few are looked at in one go, and others go first then.
"""

from __future__ import annotations

from itertools import islice

from shmhost.core.leases import Send
from shmhost.core.names import page
from shmhost.core.peers import Peer
from shmhost.core.registry import Registry
from shmhost.core.work import PAUSE, Steps
from shmprotocol.wire import messages as m

MAX_PAGE = 32  # regions in a Listed, which takes 50 us
MAX_LOOKS = 128  # names between pauses, which takes 30 us


def listing(registry: Registry, peer: Peer, request: m.List, send: Send) -> Steps:
    """Gather an answer and send it."""
    infos: list[m.RegionInfo] = []
    after, more = request.after, True
    while more and len(infos) <= MAX_PAGE:
        names, more = page(registry.names, request.prefix, after, MAX_LOOKS)
        visible = (region for name in names if (region := registry.current[name]).is_visible(peer))
        infos += [region.info() for region in islice(visible, MAX_PAGE + 1 - len(infos))]
        if more and len(infos) <= MAX_PAGE:
            after = names[-1]
            yield PAUSE
    send(m.Listed(request.id, tuple(infos[:MAX_PAGE]), len(infos) > MAX_PAGE), ())
