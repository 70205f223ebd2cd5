"""The cluster's authority: its key, the tokens and the names, on the nodes that may admit others.

One node uses it at a time: the one that writes the topology record and holds the key. Copies go only from that node,
over ``frys/1`` (TLS 1.3 with ML-KEM, mutual certificates), to the members that its settings name and to a successor;
they lie in the data directory like the original, readable by its owner alone. A copy is checked against the authority's
certificate, which every member has, and stored with the identity last, so that a broken write leaves no half of one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec
import trio
from cryptography import x509

from frys_node.base.errors import CorruptData, FrysError, NotReady, SecurityError, StorageError
from frys_node.base.ports import Clock, Disk, Entropy
from frys_node.base.types import NodeId
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.secure import certificates
from frys_node.secure.identity import Identity, save_identity
from frys_node.secure.signing_keys import SEED_BYTES, PrivateKey, key_from_seed
from frys_node.secure.stored import read_secret
from frys_node.trust.departures import DEPARTURES_PATH
from frys_node.trust.entrusted import EntrustedTable
from frys_node.trust.issuer import TOKENS_PATH, IssuerDesk, unconfirmed
from frys_node.trust.names import NAMES_PATH
from frys_node.trust.pending import ROTATION_PATH, read_pending
from frys_node.wire.codec import Message

ROLE_HINT = "frys-node issuer show says who it is"
SPREAD_EVERY_S = 20.0
"""Pause between looks whether the standby members hold what the issuer holds."""

log = logging.getLogger(__name__)


class Authority(Message, frozen=True):
    """All that it takes to admit nodes. Never logged, never stored but in ``identity`` and ``issuer`` files."""

    key: bytes
    """The seed of the authority's private key, 32 bytes of either kind."""
    tokens: bytes
    names: bytes
    rotation: bytes = b""
    """The next authority's key while one follows another; empty otherwise."""
    entrusted: bytes = b""
    """Who was given the key before; see `entrusted`."""
    departures: bytes = b""
    """Who was admitted and has no name now; see `departures`."""


class Entrusted(Message, frozen=True):
    """The copy is durable."""


ENTRUST: Method[Authority, Entrusted] = Method("channel.entrust", Authority, Entrusted)


class AuthorityHolder:
    """This node's copy, if it has one, and the desk while it is in use here."""

    def __init__(
        self, identity: Identity, disk: Disk, entropy: Entropy, clock: Clock, *, issuer: Callable[[], NodeId]
    ) -> None:
        self._identity = identity
        self._disk = disk
        self._entropy = entropy
        self._clock = clock
        self._issuer = issuer
        self._desk: IssuerDesk | None = None
        self.keeps_join_token = True
        """False: the desk makes no standing ``join-token``."""
        self.entrusted = EntrustedTable(disk)
        """Who was given the key."""
        self._is_lost: Callable[[NodeId], bool] = lambda _node: False
        self.is_expelled: Callable[[NodeId], bool] = lambda _node: False
        """Says whether a node was expelled: its key is admitted no more."""
        self.on_trust: list[Callable[[], None]] = []
        """Called, in this order, when this node trusts other authorities than before; they do not block."""

    @property
    def can_admit(self) -> bool:
        """True if this node could admit nodes as the issuer."""
        return self._identity.ca_key is not None

    @property
    def issuer(self) -> NodeId:
        """The node that writes the topology record."""
        return self._issuer()

    @property
    def is_issuer(self) -> bool:
        """True if this node writes the topology record."""
        return self.issuer == self._identity.node_id

    @property
    def desk(self) -> IssuerDesk | None:
        """The issuer's desk, None on a node that is not the issuer or has no key."""
        if not self.can_admit or not self.is_issuer:
            # Another node's desk may change the tables meanwhile; they are read again when the role comes back.
            self._desk = None
        elif self._desk is None:
            keeps = self.keeps_join_token
            self._desk = IssuerDesk(self._identity, self._disk, self._entropy, self._clock, keeps_join_token=keeps)
            self._desk.is_lost = self._is_lost
            self._desk.is_expelled = self.is_expelled
        return self._desk

    def ask_lost(self, is_lost: Callable[[NodeId], bool]) -> None:
        """Learn how to tell whether a node has been dead for so long that its name may be taken over."""
        self._is_lost = is_lost
        if self._desk is not None:
            self._desk.is_lost = is_lost

    def export(self) -> Authority:
        """Return the copy to give away.

        Raises:
            NotReady: This node has none.
            UnsafePermissions: Another user put a file of it there, or others may read it.
        """
        key = self._identity.ca_key
        if key is None:
            raise NotReady("this node does not hold the authority's key")
        tokens, names = read_secret(self._disk, TOKENS_PATH), read_secret(self._disk, NAMES_PATH)
        rotation = read_secret(self._disk, ROTATION_PATH)
        known, departures = self.entrusted.encode(), read_secret(self._disk, DEPARTURES_PATH)
        return Authority(
            key.private_bytes_raw(), tokens or b"", names or b"", rotation or b"", known, departures or b""
        )

    def take(self, copy: Authority) -> None:
        """Keep a copy durably.

        Raises:
            SecurityError: The key is not that of this cluster's authority. Nothing was changed.
            StorageError: The disk refused; what was stored before stands.
        """
        if len(copy.key) != SEED_BYTES:
            raise SecurityError("the authority's key has a wrong length")
        key = key_from_seed(copy.key, self._identity.kind)
        if key.public_key() != self._identity.ca_certificate.public_key():
            raise SecurityError("the key is not that of this cluster's authority")
        for path, data in (
            *((TOKENS_PATH, copy.tokens), (DEPARTURES_PATH, copy.departures)),
            *((NAMES_PATH, copy.names), (ROTATION_PATH, copy.rotation)),
        ):
            if data and self._disk.read(path) != data:
                self._disk.write(path, data)
        self.entrusted.merge(copy.entrusted, self._trusted())
        if not copy.rotation:
            self._disk.remove(ROTATION_PATH)
        if self._identity.ca_key is None:
            self._identity.ca_key = key
            save_identity(self._disk, self._identity)

    def _trusted(self) -> list[str]:
        """Hashes of the authorities whose keys open anything, or will."""
        pending = read_pending(self._disk)
        coming = () if pending is None else (pending.certificate,)
        return [certificates.spki_hash(authority) for authority in (*self._identity.authorities, *coming)]

    def note_entrusted(self, node: NodeId, name: str) -> None:
        """Note, durably, that a node is about to be given what `export` returns, and that this node has it; see there.

        Raises:
            Overloaded, StorageError: See `EntrustedTable.note`. Nothing may be given then.
        """
        trusted = self._trusted()
        self.entrusted.note(self._identity.node_id, self._identity.node_name, trusted, trusted)
        self.entrusted.note(node, name, trusted, trusted)

    def was_entrusted(self, node: NodeId) -> bool:
        """True if a node was given a key of an authority that is trusted, as far as this node was told."""
        # Tables begin later than clusters: the founder made the first key.
        is_founder = node == self._identity.issuer and not self._identity.retired
        return is_founder or self.entrusted.has(node, self._trusted())

    def check_admitted(self, node: NodeId) -> None:
        """Raise a `NotAdmitted` if this node, as the issuer, counts the other as no member; see `IssuerDesk`."""
        desk = self.desk
        if desk is not None:
            desk.check_admitted(node)

    def is_admitted(self, node: NodeId) -> bool:
        """Return whether this node, as the issuer, counts the other as a member that an operator knows of."""
        desk = self.desk
        return desk is None or desk.is_admitted(node)

    def check_confirmed(self) -> None:
        """Raise an `Unconfirmed` if a record alone speaks for somebody: a change of the authority shuts it out."""
        desk = self.desk
        waiting = [] if desk is None else desk.unconfirmed()
        if waiting:
            raise unconfirmed(waiting)

    def admit(self, node: NodeId) -> bool:
        """Admit a node that was taken from a record; raises as `IssuerDesk.confirm`, `NotReady` without a desk."""
        return self._desk_here().confirm(node)

    def name_of(self, node: NodeId) -> str:
        """Return an admitted node's name; raises as `IssuerDesk.name_of`, and `NotReady` where no desk is."""
        return self._desk_here().name_of(node)

    def _desk_here(self) -> IssuerDesk:
        if self.desk is None:
            raise NotReady("this node is not the issuer, or does not hold the authority's key", hint=ROLE_HINT)
        return self.desk

    def strangers(self, members: Sequence[tuple[NodeId, str]]) -> list[tuple[NodeId, str]]:
        """Return who of these is no member, and everybody whom a record alone speaks for; only the issuer knows any."""
        desk = self.desk
        if desk is None:
            return []
        met = [member for member in members if not desk.is_admitted(member[0])]
        return met + [(node, name) for node, name in desk.unconfirmed() if node not in dict(met)]

    def standby_of(self, name: str) -> NodeId | None:
        """Return the node that was given the key as the standby of this name; None if nobody was."""
        return self.entrusted.pinned(name, self._trusted())

    def key_for(self, authority: x509.Certificate) -> PrivateKey | None:
        """Return the key of an authority if this node has it: the one that issues, or the next one."""
        pending = read_pending(self._disk)
        held = (self._identity.ca_key, None if pending is None else pending.key)
        return next((key for key in held if key is not None and key.public_key() == authority.public_key()), None)

    def trust_changed(self) -> None:
        """Have connections to come use what is trusted now, and the desk too; forget a next key that waits no more."""
        self._desk = None
        for hear in self.on_trust:
            hear()
        try:
            pending = read_pending(self._disk)
            if pending is not None and pending.certificate not in self._identity.also_trusted:
                self._disk.remove(ROTATION_PATH)
        except (CorruptData, StorageError) as error:
            log.error("channel.next_key_not_forgotten", extra={"error": error.message, "path": ROTATION_PATH})

    def renew_desk(self) -> None:
        """Make the desk's tokens those of the authority that issues now."""
        self._desk = None
        if self.desk is not None:
            self.desk.authority_changed()

    def drop(self) -> None:
        """Forget the key, durably: this node leaves the cluster and has handed its role over."""
        if self._identity.ca_key is not None:
            self._identity.ca_key = None
            save_identity(self._disk, self._identity)


class AuthorityDriver:
    """Gives copies to a successor and to the standby members, and takes them from the issuer."""

    def __init__(
        self,
        holder: AuthorityHolder,
        rpc: Rpc,
        *,
        standby: Sequence[str],
        members: Callable[[], Sequence[tuple[NodeId, str]]],
    ) -> None:
        """`members` returns ids and names of the members that live."""
        self._holder = holder
        self._rpc = rpc
        self._names = tuple(standby)
        self._members = members
        self._held: dict[NodeId, Authority] = {}
        self._strangers: set[NodeId] = set()
        """Who has a standby's name without being it; complained of once."""

    def serve(self) -> None:
        """Take copies from the issuer."""
        self._rpc.serve(ENTRUST, self._serve_entrust)

    async def _serve_entrust(self, caller: NodeId, request: Authority) -> Entrusted:
        await trio.lowlevel.checkpoint()
        if caller != self._holder.issuer:
            raise SecurityError("only the issuer entrusts the authority's key")
        self._holder.take(request)
        log.info("channel.authority_kept", extra={"peer": caller})
        return Entrusted()

    async def entrust(self, node: NodeId) -> None:
        """Give a member a copy; nothing to give is no error, the successor then cannot admit nodes either."""
        if self._holder.can_admit:
            self._holder.check_admitted(node)
            self._holder.note_entrusted(node, self._issued(node, dict(self._members()).get(node, "")))
            await self._give(node, self._holder.export())

    async def _give(self, node: NodeId, copy: Authority) -> None:
        await self._rpc.call(node, ENTRUST, copy)
        self._held[node] = copy

    def standby(self) -> list[str]:
        """Return the names of the living members that were given what this node holds now."""
        if not self._holder.can_admit:
            return []
        copy = _bare(self._holder.export())
        return [name for node, name in self._members() if node in self._held and _bare(self._held[node]) == copy]

    async def run(self) -> None:
        """While this node is the issuer, keep the standby members' copies as its own."""
        while True:
            if self._holder.is_issuer and self._holder.can_admit:
                try:
                    await self.spread()
                except FrysError as error:
                    log.error("channel.authority_not_given", extra={"error": error.message, "fix": error.hint})
            else:
                self._held.clear()
            await trio.sleep(SPREAD_EVERY_S)

    def _issued(self, node: NodeId, name: str) -> str:
        """Return the name that the registry has for a node: what it calls itself in gossip is its own word."""
        desk = self._holder.desk
        return name if desk is None else desk.names.find(node) or ""

    def _is_standby(self, node: NodeId, name: str) -> bool:
        """True if the settings mean this node: by its id, or by its name and no other node had the key under it."""
        if node == self._rpc.self_id or not {node, name} & set(self._names):
            return False
        if node in self._names:
            return True
        pinned = self._holder.standby_of(name)
        if self._issued(node, name) == name and pinned in {None, node}:
            return True
        if node not in self._strangers:
            fix = f"if it is the standby now, name it by its id: standby = ['{node}']"
            log.error("channel.standby_is_another", extra={"peer": node, "standby": name, "was": pinned, "fix": fix})
            self._strangers.add(node)
        return False

    async def spread(self) -> None:
        """Give each living standby member a copy, unless it holds it.

        Raises:
            Overloaded, StorageError: Who is given it could not be noted. Nobody was given anything.
        """
        living = [(node, name) for node, name in self._members() if self._is_standby(node, name)]
        chosen = [(node, name) for node, name in living if self._holder.is_admitted(node)]
        for node, name in chosen:
            self._holder.note_entrusted(node, name)
        copy = self._holder.export()
        for node, name in chosen:
            if self._held.get(node) == copy:
                continue
            try:
                with trio.fail_after(SPREAD_EVERY_S):
                    await self._give(node, copy)
            except (FrysError, trio.TooSlowError) as error:
                log.warning("channel.authority_not_given", extra={"peer": name, "error": str(error)})


def _bare(copy: Authority) -> Authority:
    """Leave out who else has the key: it does not make a standby's copy useless."""
    return msgspec.structs.replace(copy, entrusted=b"")
