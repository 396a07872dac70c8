"""The access list: which hosts are let in at all, and what each may copy from here and announce here. Pure.

Peers are known by the names in their certificates. Each key has the name of the host that uses it, and the
access control of zenoh lets through only those with the name in the certificate at the other end of the link.
So a host that reads a name in a key can believe it, and the prefixes are checked by hosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shmprotocol.tuples import NamedTuple


class Rights(NamedTuple):
    """The prefixes of names that a peer may copy from this host, and announce to it."""

    imports: tuple[str, ...]
    exports: tuple[str, ...]


class Access:
    """The rights of peers by name; None: every member may do everything."""

    def __init__(self, rights: Mapping[str, Rights] | None) -> None:
        self._rights = rights

    @property
    def peers(self) -> tuple[str, ...] | None:
        """The peers that are let in, None if that is all."""
        return None if self._rights is None else tuple(self._rights)

    def may_import(self, peer: str, name: str) -> bool:
        """Whether a peer may know of a region of this host, and copy it."""
        return self._rights is None or name.startswith(self._of(peer).imports)

    def may_export(self, peer: str, name: str) -> bool:
        """Whether the announcements of a peer for a name are taken."""
        return self._rights is None or name.startswith(self._of(peer).exports)

    def _of(self, peer: str) -> Rights:
        assert self._rights is not None
        return self._rights.get(peer, Rights((), ()))


EVERYBODY = Access(None)
EVERYTHING = ("put", "delete", "query", "reply", "declare_subscriber", "declare_queryable")
LIVELINESS = ("liveliness_token", "liveliness_query", "declare_liveliness_subscriber")


def rules_of(prefix: str, own: str, peers: Iterable[str]) -> dict[str, object]:
    """Return zenoh's `access_control`: what peers may send, each with its own name in the key."""
    names = sorted({own, *peers})
    rules, policies = [], []
    for name in names:
        allowed = {
            "in": (("put", "delete", *LIVELINESS), [f"{prefix}/live/{name}/*", f"{prefix}/news/{name}/*/*"]),
            "see": (LIVELINESS[1:], [f"{prefix}/live/**"]),
            "hear": (("declare_subscriber",), [f"{prefix}/news/*/*/{name}", f"{prefix}/news/*/*/all"]),
            "ask": (("query",), [f"{prefix}/ask/*/*/{name}"]),
            "answer": (("declare_queryable", "reply"), [f"{prefix}/ask/{name}/*/*"]),
        }
        rules += [_rule(f"{name} {what}", "ingress", *each) for what, each in allowed.items()]
        rules.append(_rule(f"{name} out", "egress", (*EVERYTHING, *LIVELINESS), [f"{prefix}/**"]))
        policies.append({"rules": [f"{name} {what}" for what in (*allowed, "out")], "subjects": [name]})
    return {
        "enabled": True,
        "default_permission": "deny",
        "rules": rules,
        "subjects": [{"id": name, "cert_common_names": [name]} for name in names],
        "policies": policies,
    }


def _rule(name: str, flow: str, messages: tuple[str, ...], keys: list[str]) -> dict[str, object]:
    kinds = list(messages)
    return {"id": name, "permission": "allow", "flows": [flow], "messages": kinds, "key_exprs": keys}
