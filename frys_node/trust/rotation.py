"""How the cluster's authority is followed by another one: stages, messages, and when the next stage may come.

Sans-I/O. Theory of operation. (1) *introduced*: the issuer has made a new key, the old authority has signed it, and
every member is told to trust both; the old one still issues. (2) *issuing*: once all live members trust both, the new
one issues, and every member has its certificate renewed; whichever a member shows meanwhile, the others accept it.
(3) *stable*: once all live members show certificates of the new one, the old one is dropped. Members are told over
``frys/1``, by the issuer alone, and believe only what the authority that they trust has signed (`secure.trust`).
A member that was away comes home by `homecoming`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec
from cryptography import x509

from frys_node.base.access import Principal
from frys_node.base.types import NodeId
from frys_node.kernel.services.rpc import Method
from frys_node.secure import certificates
from frys_node.secure.identity import Identity
from frys_node.secure.trust import TrustSet, issuer_of
from frys_node.wire.codec import Message


class Stage(StrEnum):
    """Where the issuer is."""

    STABLE = "stable"
    INTRODUCED = "introduced"
    ISSUING = "issuing"


class Trust(Message, frozen=True):
    """To a member, from the issuer: trust these authorities (DER), and no others."""

    authorities: tuple[bytes, ...]
    """The first one issues."""
    links: tuple[bytes, ...]
    retired: tuple[bytes, ...]


class Trusted(Message, frozen=True):
    """What the member trusts now, and which authority issued its certificate: hashes."""

    authorities: tuple[str, ...]
    issued_by: str


class AskAuthority(Message, frozen=True):
    """How far is it?"""


class RotateAuthority(Message, frozen=True):
    """Have another authority follow the present one."""

    asked_by: Principal | None = None
    """Who asked the node that sends this; nobody is refused."""


class MemberTrust(msgspec.Struct, frozen=True, kw_only=True):
    """One member, as the issuer knows it."""

    name: str
    id: NodeId
    has_moved: bool
    """True if it trusts what it should in this stage and has a certificate of the authority that issues."""
    error: str = ""


class AuthorityView(Message, frozen=True):
    """The issuer's view of the authority. Times are Unix seconds."""

    stage: str
    kind: str
    authority: str
    """Hash of the one that issues, as join tokens pin it."""
    expires_at: int
    also_trusted: tuple[str, ...]
    retired: tuple[str, ...]
    certificates: str
    """PEM of the trusted ones; the first issues."""
    moved: int
    total: int
    members: list[MemberTrust]
    strangers: tuple[str, ...] = ()
    """Names with ids of whoever looks alive in gossip and was never admitted, or has left: not counted, not renewed."""
    changed_at: int = 0
    """When the authority that issues was made; 0 if it is the first."""
    asked_by: str = ""
    """Who asked for the last change since this issuer's start, and through which member."""


TRUST: Final[Method[Trust, Trusted]] = Method("channel.trust", Trust, Trusted)
ASK_AUTHORITY: Final[Method[AskAuthority, AuthorityView]] = Method("channel.ask_authority", AskAuthority, AuthorityView)
ROTATE_AUTHORITY: Final[Method[RotateAuthority, AuthorityView]] = Method(
    "channel.rotate_authority", RotateAuthority, AuthorityView
)


class Step(StrEnum):
    """What the issuer does next."""

    SWITCH = "switch"
    RETIRE = "retire"


class Wanted(NamedTuple):
    """What every member shall have in the present stage."""

    stage: Stage
    authorities: tuple[str, ...]
    """Hashes; the first one issues."""


class Rotation:
    """What members have, and whether the next step may be taken."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[NodeId, Trusted] = {}

    def answered(self, node: NodeId, held: Trusted) -> None:
        """Note what a member has."""
        self._held[node] = held

    def forget(self, nodes: Collection[NodeId] | None = None) -> None:
        """Forget members other than these; without an argument, all."""
        self._held = {} if nodes is None else {node: self._held[node] for node in self._held if node in nodes}

    def has_moved(self, node: NodeId, wanted: Wanted) -> bool:
        """True if a member has what it should have in this stage."""
        held = self._held.get(node)
        return held is not None and held == Trusted(wanted.authorities, wanted.authorities[0])

    def behind(self, wanted: Wanted, live: Sequence[NodeId]) -> list[NodeId]:
        """Return the live members that have to be told."""
        return [node for node in live if not self.has_moved(node, wanted)]

    def step(self, wanted: Wanted, live: Sequence[NodeId]) -> Step | None:
        """Return the next step if every live member is ready for it. Nobody live at all is no majority of anything."""
        if wanted.stage is Stage.STABLE or not live or self.behind(wanted, live):
            return None
        return Step.SWITCH if wanted.stage is Stage.INTRODUCED else Step.RETIRE


def held_by(identity: Identity) -> Trusted:
    """Return what this node has."""
    issuer = issuer_of(identity.certificate, identity.authorities)
    hashes = tuple(certificates.spki_hash(authority) for authority in identity.authorities)
    return Trusted(hashes, "" if issuer is None else certificates.spki_hash(issuer))


def encode_trust(trust: TrustSet) -> Trust:
    """Write a trust set for the wire."""
    return Trust(*(tuple(map(certificates.der, part)) for part in trust))


def decode_trust(message: Trust) -> TrustSet:
    """Read a trust set from the wire.

    Raises:
        InvalidCertificate: A certificate is malformed. It was not used.
    """
    return TrustSet(_load(message.authorities), _load(message.links), _load(message.retired))


def _load(ders: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    return tuple(map(certificates.load_der, ders))
