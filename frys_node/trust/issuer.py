"""The issuer's desk: tokens, names and certificates, kept on its disk.

Everything here is synchronous and every change is durable before it is answered, so joins that come at the same time
are settled one after the other. Files, all under ``issuer/``: the token table and the name registry; ``join-token`` in
the data directory itself is the multi-use token that `start` prints (24 h, renewed at half of its life).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from typing import Final

from cryptography import x509

from frys_node.base.errors import NotFound, SecurityError
from frys_node.base.ports import Clock, Disk, Entropy
from frys_node.base.types import Address, NodeId
from frys_node.secure import certificates
from frys_node.secure.errors import (
    Expelled,
    InvalidCertificate,
    InvalidToken,
    NotAdmitted,
    Unconfirmed,
    UnsafePermissions,
    WrongCluster,
)
from frys_node.secure.identity import Identity
from frys_node.secure.signing_keys import PublicKey
from frys_node.secure.stored import read_secret
from frys_node.secure.token import SECRET_BYTES, TokenInfo, TokenTable, parse_token, proof
from frys_node.trust.departures import DEPARTURES_PATH, Departures
from frys_node.trust.join_messages import JoinAccepted, JoinRequest, PeerAddress
from frys_node.trust.names import NAMES_PATH, NameRegistry

TOKENS_PATH: Final = "issuer/tokens.json"
JOIN_PATH: Final = "join-token"
_JOIN_ID_PATH: Final = "issuer/join-token-id"
JOIN_TTL_S = 86_400
ADOPTED_NAME: Final = "node"
"""Of a member whose name this issuer does not know."""
NAMED_MAX = 8
"""Nodes that one error names."""

log = logging.getLogger(__name__)


class IssuerDesk:
    """Issues certificates against tokens. Only on the node that holds the authority's key."""

    def __init__(
        self, identity: Identity, disk: Disk, entropy: Entropy, clock: Clock, *, keeps_join_token: bool = True
    ) -> None:
        """`keeps_join_token` False: there is no standing ``join-token``, which would open the door to strangers."""
        assert identity.ca_key is not None
        self._identity = identity
        self._ca_key = identity.ca_key
        self._disk = disk
        self._entropy = entropy
        self._clock = clock
        self._keeps_join_token = keeps_join_token
        self.names = NameRegistry()
        self.departures = Departures()
        self.is_lost: Callable[[NodeId], bool] = lambda _node: False
        """Says whether a node has been dead for so long that its name may be taken over."""
        self.is_expelled: Callable[[NodeId], bool] = lambda _node: False
        self._pin = identity.ca_hash
        self._tokens = TokenTable(identity.cluster_name, self._pin)
        stored = read_secret(disk, TOKENS_PATH)
        if stored is not None:
            self._tokens.restore(stored)
        names = read_secret(disk, NAMES_PATH)
        if names is not None:
            self.names.restore(names)
        departures = read_secret(disk, DEPARTURES_PATH)
        if departures is not None:
            self.departures.restore(departures)
        if (identity.node_name, identity.node_id) not in self.names.all():
            self.names.claim(identity.node_name, identity.node_id, is_chosen=True)
            self._save_names()

    def _now_unix_s(self) -> int:
        return self._clock.unix_ns() // 1_000_000_000

    def _save_tokens(self) -> None:
        self._disk.write(TOKENS_PATH, self._tokens.encode())

    def _save_names(self) -> None:
        self._disk.write(NAMES_PATH, self.names.encode())

    def _save_departures(self) -> None:
        self._disk.write(DEPARTURES_PATH, self.departures.encode())

    def create_token(self, *, ttl_s: float, uses: int | None, role: str = "node") -> tuple[str, TokenInfo]:
        """Make a token, durably, and return its text with what is known of it.

        Raises:
            UsageError, Overloaded: See `TokenTable.create`. Nothing was made.
        """
        now = self._now_unix_s()
        text = self._tokens.create(
            self._entropy.token_bytes(SECRET_BYTES + 4), ttl_s=ttl_s, uses=uses, now_unix_s=now, role=role
        )
        self._save_tokens()
        token_id = text.split(".")[3]
        return text, next(info for info in self._tokens.list(now) if info.id == token_id)

    def list_tokens(self) -> list[TokenInfo]:
        """Every token without its secret, oldest first."""
        return self._tokens.list(self._now_unix_s())

    def revoke_token(self, token_id: str) -> None:
        """Forget a token, durably; `NotFound` if there is none. In the standing one's place there is a new one."""
        self._tokens.revoke(token_id)
        self._save_tokens()
        if token_id == self._standing_id():
            self._replace_join_token()

    def accept_premade(self, text: str) -> None:
        """Accept a ``frys0`` token from now on, durably; raises as `TokenTable.add_premade` does."""
        self._tokens.add_premade(text, self._now_unix_s())
        self._save_tokens()

    def release_name(self, node: NodeId) -> None:
        """Free the name of a node that counts as left, durably; it is a member again if it comes back."""
        name = self.names.find(node)
        if name is not None:
            self.departures.free(node, name)
            self._save_departures()
            self.names.release(node)
            self._save_names()

    def depart(self, node: NodeId) -> bool:
        """End the admission of a node that leaves for good, and free its name, durably; False if it was over.

        Raises:
            NotAdmitted: It never was. Nothing was changed.
        """
        name = self._known_as(node)
        if name is None:
            raise never_admitted(node)
        is_new = self.departures.end(node, name, self._now_unix_s())
        if is_new:
            self._save_departures()
        if self.names.release(node):
            self._save_names()
        return is_new

    def _known_as(self, node: NodeId) -> str | None:
        """Return the name that a node has or had; None if it was never admitted."""
        row = self.departures.find(node)
        return self.names.find(node) or (None if row is None else row.name)

    def adopt(self, members: Sequence[tuple[NodeId, str]]) -> list[NodeId]:
        """Keep these, durably, as members by a record's word alone, unless they are known; returns whoever was not.

        For members of the record of an issuer before this one: the copy of its registry that is here may be older, and
        the record may be of somebody who made itself the issuer. Nothing is done for them until an operator confirms
        them (`confirm`). Their names are what they say; certificates get free ones.
        """
        fresh = [(node, name) for node, name in members if self._known_as(node) is None]
        kept = [node for node, name in fresh if self.departures.adopt(node, _usable(name))]
        if kept:
            self._save_departures()
        return kept

    def confirm(self, node: NodeId) -> bool:
        """Admit a node that was taken from a record, durably, by an operator's word; False if it is admitted already.

        Raises:
            Expelled: It was expelled, which is for good. Nothing was changed.
            NotFound: No record had it, or it has left. Nothing was changed.
        """
        if self.is_expelled(node):
            raise Expelled(f"node {node} was expelled from the cluster", hint=Expelled.FIX)
        if self.is_admitted(node):
            return False
        if not self.departures.confirm(node):
            raise NotFound(
                f"node {node} was taken from no topology record by this issuer",
                hint="frys-node status --security lists who was, on the issuer; others join with a token",
            )
        self._save_departures()
        return True

    def unconfirmed(self) -> list[tuple[NodeId, str]]:
        """Ids and names of whom a record alone speaks for, without those that were expelled."""
        return [(node, name) for node, name in self.departures.adopted() if not self.is_expelled(node)]

    def was_admitted(self, node: NodeId) -> bool:
        """True if the node was ever admitted, also if it has left since, or if a record says so."""
        return self._known_as(node) is not None

    def is_admitted(self, node: NodeId) -> bool:
        """True if the node was admitted, has not left, and more than a record says so."""
        return self.was_admitted(node) and not self.departures.has_left(node) and not self.departures.is_adopted(node)

    def check_admitted(self, node: NodeId) -> str:
        """Return the name that an admitted node has or had last.

        Raises:
            NotAdmitted: The node was never admitted, or has left.
            Unconfirmed: A record alone speaks for it.
        """
        name = self._known_as(node)
        if name is None:
            raise never_admitted(node)
        if self.departures.has_left(node):
            raise NotAdmitted(f"node {name} has left", hint=NotAdmitted.FIX)
        if self.departures.is_adopted(node):
            raise unconfirmed([(node, name)])
        return name

    def name_of(self, node: NodeId) -> str:
        """Return the name for an admitted node's certificate; one whose name was freed gets a free one, durably.

        Raises:
            NotAdmitted: See `check_admitted`. Nothing was changed.
        """
        name = self.check_admitted(node)
        if self.names.find(node) is None:
            name = self.names.claim(name, node, is_chosen=False)
            self._save_names()
            self.departures.named(node)
            self._save_departures()
        return name

    def renew_join_token(self) -> float:
        """Make a new ``join-token`` if less than half of its life is left; return the seconds until the next look.

        One that others could read is a token that they may have: it is revoked and replaced.
        """
        now = self._now_unix_s()
        token_id = self._standing_id()
        try:
            written = read_secret(self._disk, JOIN_PATH)
        except UnsafePermissions as error:
            log.warning("channel.join_token_replaced", extra={"error": error.message, "token_id": token_id})
            written = None
            with suppress(NotFound):
                self._tokens.revoke(token_id)
                self._save_tokens()
        current = next((info for info in self._tokens.list(now) if info.id == token_id), None)
        left_s = (current.expires_at or 0) - now if current is not None else 0
        if left_s < JOIN_TTL_S // 2 or not self._is_pinned(written):
            text, info = self.create_token(ttl_s=JOIN_TTL_S, uses=None)
            self._disk.write(JOIN_PATH, text.encode() + b"\n")
            self._disk.write(_JOIN_ID_PATH, info.id.encode())
            left_s = JOIN_TTL_S
        return float(max(60, left_s - JOIN_TTL_S // 2))

    def _standing_id(self) -> str:
        return (self._disk.read(_JOIN_ID_PATH) or b"").decode("ascii", "replace").strip()

    def _replace_join_token(self) -> None:
        """Write another ``join-token`` for one that is good no more; without a standing one, remove its dead text."""
        if self._keeps_join_token:
            self.renew_join_token()
        else:
            self._disk.remove(JOIN_PATH)
            self._disk.remove(_JOIN_ID_PATH)

    def _is_pinned(self, written: bytes | None) -> bool:
        """True if that is a token for the authority that issues now."""
        try:
            return written is not None and parse_token(written.decode("ascii", "replace")).ca_hash == self._pin
        except InvalidToken:
            return False

    def authority_changed(self) -> None:
        """Drop the tokens that pin the authority before this one, durably; a standing ``join-token`` is replaced."""
        self._tokens.drop_pinned()
        self._save_tokens()
        self._replace_join_token()

    def readmit(self, certificate: x509.Certificate, key: PublicKey, *, revoked: Container[NodeId]) -> x509.Certificate:
        """Issue a certificate to a member that missed a change of the authority and has proved its key.

        Raises:
            NotAdmitted: Its certificate is of no authority that this cluster ever had, or too old; or it is no
                member any more. Nothing was issued.
        """
        identity = self._identity
        # A link is a certificate of the authority that it leads to: one that is not kept as retired is known by it.
        ever = (*identity.authorities, *identity.retired, *identity.links)
        try:
            subject = certificates.verify_member(certificate, ever, self._clock.unix_ns())
        except SecurityError as error:
            raise NotAdmitted(f"this node cannot come back: {error.message}", hint=NotAdmitted.FIX) from error
        is_own = certificates.node_id_of(key) == subject.node and certificate.public_key() == key
        if self.departures.is_adopted(subject.node):
            raise unconfirmed([(subject.node, subject.name)])
        is_member = self.is_admitted(subject.node) and subject.node not in revoked
        if not is_member or not is_own or subject.cluster != identity.cluster_id:
            raise NotAdmitted(f"node {subject.name} is no member of this cluster any more", hint=NotAdmitted.FIX)
        return certificates.issue(
            self._ca_key,
            identity.ca_certificate,
            key,
            subject=certificates.Subject(identity.cluster_id, subject.node, self.name_of(subject.node)),
            unix_ns=self._clock.unix_ns(),
        )

    def admit(
        self, request: JoinRequest, exporter: bytes, *, source: Address, peers: tuple[PeerAddress, ...]
    ) -> JoinAccepted:
        """Check a join and issue its certificate; token and name are durable before the answer is made.

        Raises:
            FrysError: Why not; its code, message and hint go back to the joiner. Nothing was issued.
        """
        identity = self._identity
        key = certificates.read_request(request.signing_request, identity.kind)
        node = certificates.node_id_of(key)
        if self.is_expelled(node):
            raise Expelled(f"node {node} was expelled from the cluster", hint=Expelled.FIX)
        if self.departures.has_left(node):
            raise NotAdmitted(f"node {node} has left the cluster", hint=NotAdmitted.FIX)
        row = self._tokens.check(
            request.token_id,
            request.proof,
            exporter,
            node=node,
            host=source.host,
            now_unix_s=self._now_unix_s(),
            now_s=self._clock.now_s(),
        )
        if request.expect_cluster not in ("", identity.cluster_name, identity.cluster_id):
            raise wrong_cluster(identity.cluster_name, request.expect_cluster)
        before = self.names.holder(request.name)
        name = self.names.claim(request.name, node, is_chosen=request.is_name_chosen, is_lost=self.is_lost)
        has_freed = before is not None and self.names.find(before) is None
        if before is not None and has_freed:
            self.departures.free(before, request.name)
        if has_freed or self.departures.find(node) is not None:
            self.departures.named(node)
            self._save_departures()
        self._tokens.use(row, node)
        self._save_tokens()
        self._save_names()
        certificate = certificates.issue(
            self._ca_key,
            identity.ca_certificate,
            key,
            subject=certificates.Subject(identity.cluster_id, node, name),
            unix_ns=self._clock.unix_ns(),
        )
        return JoinAccepted(
            proof(row.key, b"s", exporter),
            certificates.der(certificate),
            certificates.der(identity.ca_certificate),
            identity.cluster_id,
            identity.cluster_name,
            name,
            identity.node_id,
            peers,
            also_trusted=tuple(map(certificates.der, identity.also_trusted)),
            retired=tuple(map(certificates.der, identity.retired)),
        )


def never_admitted(node: NodeId) -> NotAdmitted:
    """Build the error for a node that this cluster's issuer has let in by no token."""
    return NotAdmitted(f"node {node} was never admitted to this cluster", hint=NotAdmitted.FIX)


def unconfirmed(members: Sequence[tuple[NodeId, str]]) -> Unconfirmed:
    """Build the error for nodes that a topology record alone speaks for."""
    shown = ", ".join(f"{name} ({node})" for node, name in members[:NAMED_MAX])
    more = f" and {len(members) - NAMED_MAX} more" if members[NAMED_MAX:] else ""
    return Unconfirmed(f"a topology record alone says that these are members: {shown}{more}", hint=Unconfirmed.FIX)


def _usable(name: str) -> str:
    """Return a name if a certificate can have it, else one for whoever has none."""
    try:
        return certificates.valid_name(name)
    except InvalidCertificate:
        return ADOPTED_NAME


def wrong_cluster(found: str, wanted: str) -> WrongCluster:
    """Build the error for a seed of another cluster than the one asked for."""
    return WrongCluster(
        f"the seed belongs to cluster '{found}', not to '{wanted}'",
        hint=f"give a seed of '{wanted}', or leave the cluster's name out to join '{found}'",
    )
