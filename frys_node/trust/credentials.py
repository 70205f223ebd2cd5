"""What only members may know, kept on disk and exchanged on every ``frys/1`` connection.

The gossip keyring, the hashes of the admin tokens, and the node ids that were expelled or have left. Keys and
expulsions carry the authority's signature (`statements`) and are taken from anybody who brings them, so that whoever
was away learns both with its first connection, whoever that is to. What is unsigned, the hashes and the keys of an
issuer that does not hold the authority's key, is taken from the issuer itself. Nobody is shut out by that: any member
can make itself the issuer, by a record of a higher term, so whom it calls expelled or gone is believed by the
authority's signature alone. What the disk refuses is in force, and written later.

A key that was made after an expulsion is not passed on before the expulsion is known here: otherwise the node that it
shuts out could be given it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import msgspec

from frys_node.base.errors import CorruptData, Overloaded
from frys_node.base.ports import Disk
from frys_node.base.types import NodeId
from frys_node.secure.admin import ADMIN_HASHES_PATH, ADMIN_NUMBER_MAX, AdminTokens, AdminWord
from frys_node.secure.api_tokens import ApiTokens
from frys_node.secure.keyring import KEYRING_PATH, EpochKey, Keyring
from frys_node.secure.statements import (
    EXPULSIONS_MAX,
    REVOKED_MAX,
    Expulsion,
    Statements,
    check_node_id,
    is_node_id,
)
from frys_node.secure.stored import read_secret
from frys_node.trust.departures import DEPARTURES_MAX
from frys_node.trust.messages import Credentials

REVOKED_PATH: Final = "identity/revoked"
EXPULSIONS_PATH: Final = "identity/expulsions"
DEPARTED_PATH: Final = "identity/departed"


class MemberSecrets:
    """This node's copy; `on_change` runs after each change that came from outside or from here."""

    __slots__ = (
        "_departures_said",
        "_disk",
        "_endorsed",
        "_unsaved",
        "admin",
        "departed",
        "expulsions",
        "keyring",
        "on_change",
        "revoked",
        "statements",
        "tokens",
    )

    def __init__(self, disk: Disk, admin: AdminTokens | None = None, tokens: ApiTokens | None = None) -> None:
        """`admin` and `tokens` are those that were read of this disk already, for whoever checks bearers by them."""
        self._disk = disk
        stored = read_secret(disk, KEYRING_PATH)
        self.keyring = Keyring() if stored is None else Keyring.decode(stored)
        self.admin = AdminTokens.load(disk) if admin is None else admin
        self.tokens = ApiTokens(disk) if tokens is None else tokens
        self._unsaved: set[str] = set()
        """Paths of what is in force and not on the disk yet."""
        self.revoked: dict[NodeId, None] = {}
        self._merge_revoked(map(NodeId, (read_secret(disk, REVOKED_PATH) or b"").decode("ascii", "replace").split()))
        self.expulsions = _decode(read_secret(disk, EXPULSIONS_PATH))
        """What the authority signed; together they name all of `revoked` that the issuer could sign for."""
        self._merge_revoked(NodeId(node) for expulsion in self.expulsions for node in expulsion.nodes)
        self.departed: dict[NodeId, None] = {}
        """Who has left for good, by the issuer's word; the latest last, `DEPARTURES_MAX` at most."""
        self._merge_departed(map(NodeId, (read_secret(disk, DEPARTED_PATH) or b"").decode("ascii", "replace").split()))
        self._departures_said: tuple[object, bytes] | None = None
        """The last list of who left that was signed here, by which authority, and the signature."""
        self._endorsed: object = None
        """What was last found to be signed, so that it is not verified again and again."""
        self.statements: Statements | None = None
        """Verifies and signs; the channel sets it, before which nothing signed is taken."""
        self.on_change: Callable[[], None] = _nothing

    def offer(self) -> Credentials:
        """What to tell another member; with every expelled node beside the statements, for older members' sake."""
        keys = tuple(key for key in self.keyring.keys if key.expelled <= len(self.revoked))
        said = (tuple(self.revoked), self.expulsions, self.admin.word, *self._signed_departed())
        return Credentials(keys, self.admin.hashes, *said)

    def _signed_departed(self) -> tuple[tuple[NodeId, ...], bytes]:
        """Return who has left with the authority's signature; nobody where its key is not held."""
        nodes, statements = tuple(self.departed), self.statements
        if not nodes or statements is None or not statements.can_sign:
            return (), b""
        asked = (nodes, statements.authority)
        if self._departures_said is None or self._departures_said[0] != asked:
            self._departures_said = asked, statements.sign_departed(nodes)
        return nodes, self._departures_said[1]

    def unsigned(self) -> list[NodeId]:
        """Expelled nodes that no statement names: this node alone refuses them."""
        said = {node for expulsion in self.expulsions for node in expulsion.nodes}
        return [node for node in self.revoked if node not in said]

    def digest(self) -> bytes:
        """SHA-256 of all expelled nodes, to compare whom two members refuse."""
        return hashlib.sha256("".join(sorted(self.revoked)).encode()).digest()

    def farewell(self) -> Credentials:
        """What to tell an expelled node: why, and nothing else."""
        return Credentials((), expulsions=self.expulsions)

    def take(self, offered: Credentials, *, from_issuer: bool) -> bool:
        """Merge what another member told; True if anything changed (it is durable then).

        Raises:
            StorageError: The disk refused; what was learned is used all the same, and comes again after a restart.
        """
        has_expulsions = self._merge_expulsions(offered.expulsions)
        has_keys = self.keyring.merge(self._trusted(offered.keys, from_issuer=from_issuer), from_issuer=from_issuer)
        has_keys |= self.keyring.merge(self._signed_anew(offered.keys), from_issuer=True)
        has_hashes = self._merge_admin(offered.admin) or (from_issuer and self.admin.merge(offered.admin_hashes))
        has_departed = from_issuer and self._take_departed(offered)
        if not (has_keys or has_hashes or has_expulsions or has_departed):
            return False
        self._note(has_departed, DEPARTED_PATH)
        self._note(has_expulsions, REVOKED_PATH)
        self._note(has_keys, KEYRING_PATH)
        self._note(has_hashes, ADMIN_HASHES_PATH)
        try:
            self.flush()
        finally:
            self.on_change()
        return True

    def _note(self, has_changed: bool, path: str) -> None:
        if has_changed:
            self._unsaved.add(path)

    def flush(self) -> None:
        """Write what is not on the disk yet.

        Raises:
            StorageError: The disk refused. It is used all the same, and `flush` tries again.
        """
        # Who is shut out first: a crash between the two must not leave a key that could be passed on to them.
        if REVOKED_PATH in self._unsaved:
            self._disk.write(EXPULSIONS_PATH, msgspec.msgpack.encode(self.expulsions))
            self._disk.write(REVOKED_PATH, "\n".join(self.revoked).encode())
            self._unsaved.discard(REVOKED_PATH)
        if DEPARTED_PATH in self._unsaved:
            self._disk.write(DEPARTED_PATH, "\n".join(self.departed).encode())
            self._unsaved.discard(DEPARTED_PATH)
        if KEYRING_PATH in self._unsaved:
            self._disk.write(KEYRING_PATH, self.keyring.encode())
            self._unsaved.discard(KEYRING_PATH)
        if ADMIN_HASHES_PATH in self._unsaved:
            self.admin.save(self._disk)
            self._unsaved.discard(ADMIN_HASHES_PATH)

    def _trusted(self, keys: Iterable[EpochKey], *, from_issuer: bool) -> list[EpochKey]:
        """Return the keys that are held here, the authority's, and unsigned ones that the issuer itself brings."""
        held, statements = set(self.keyring.keys), self.statements
        return [
            key
            for key in keys
            if key in held
            or (from_issuer and not key.signature and not key.expelled)
            or (statements is not None and statements.is_ours(key))
        ]

    def rotate(self, key: bytes, made_unix_s: int = 0) -> None:
        """Add a gossip key, signed and durably, and have it told to everybody. On the issuer.

        Raises:
            NotReady: This node does not hold the authority's key. Nothing changed.
            StorageError: The disk refused. Nothing changed.
        """
        self._add_key(key, made_unix_s)
        self.on_change()

    def _add_key(self, key: bytes, made_unix_s: int) -> None:
        assert self.statements is not None, "the channel brings the statements"
        fresh = EpochKey(self.keyring.next_epoch, key, made_unix_s=made_unix_s, expelled=len(self.revoked))
        fresh = self.statements.sign_key(fresh)
        grown = Keyring.decode(self.keyring.encode())
        grown.merge((fresh,))
        self._disk.write(KEYRING_PATH, grown.encode())
        self.keyring.merge((fresh,))

    def expel(self, node: NodeId, key: bytes, made_unix_s: int) -> bool:
        """Expel a node and rotate the keys, durably, and have both told to everybody. On the issuer.

        Returns:
            False if the node was expelled before, durably, and the keys are rotated: then nothing changed.

        Raises:
            NotReady: This node does not hold the authority's key. Nothing changed.
            Overloaded: `REVOKED_MAX` nodes are expelled already. Nothing changed.
            UsageError: That is no node id. Nothing changed.
            StorageError: The disk refused. The node is expelled all the same, here and where it has been told; ask
                again for what is missing, which `KeyKeeper` does too.
        """
        assert self.statements is not None, "the channel brings the statements"
        if self._has_expelled(node):
            return False
        self._check_room(node)
        try:
            self._expel(node)
            self.flush()
            self._add_key(key, made_unix_s)
        finally:
            self.on_change()
        return True

    def _expel(self, node: NodeId) -> None:
        assert self.statements is not None
        if not any(node in expulsion.nodes for expulsion in self.expulsions):
            self._note(self._keep((self.statements.expel((*self.revoked, node)),)), REVOKED_PATH)

    def _has_expelled(self, node: NodeId) -> bool:
        """True if nothing is left to be done about a node's expulsion."""
        newest = self.keyring.newest
        is_keyed = newest is not None and newest.expelled >= len(self.revoked)
        is_said = any(node in expulsion.nodes for expulsion in self.expulsions)
        return node in self.revoked and is_said and is_keyed and not self._unsaved

    def replace_admin(self, admin_hash: bytes) -> int:
        """Accept one admin token and no other, durably, and have it told; returns the word's number. On the issuer.

        Raises:
            NotReady: This node does not hold the authority's key. Nothing changed.
            Overloaded: It was replaced `ADMIN_NUMBER_MAX` times. Nothing changed.
            StorageError: The disk refused. Nothing changed, unless only the unsigned copy was refused.
        """
        assert self.statements is not None, "the channel brings the statements"
        held = self.admin.word
        if held is not None and held.number >= ADMIN_NUMBER_MAX:
            raise Overloaded(
                "the admin token was replaced too often", hint="API tokens with the role admin do the same"
            )
        word = self.statements.say_admin(1 if held is None else held.number + 1, (admin_hash,))
        replaced = AdminTokens()
        replaced.use(word)
        replaced.save(self._disk)
        self.admin.use(word)
        self.on_change()
        return word.number

    def _merge_admin(self, word: AdminWord | None) -> bool:
        held, statements = self.admin.word, self.statements
        if word is None or statements is None or word == held:
            return False
        if held is not None and (word.number, word.hashes) <= (held.number, held.hashes):
            is_same = (word.number, word.hashes) == (held.number, held.hashes)
            is_issuing = partial(statements.is_admin_word, by_the_issuing=True)
            if not is_same or not is_issuing(word) or is_issuing(held):
                return False
        elif not statements.is_admin_word(word):
            return False
        self.admin.use(word)
        return True

    def _endorse_admin(self) -> bool:
        """Sign anew what another authority said of the admin tokens; True if it did."""
        word, statements = self.admin.word, self.statements
        assert statements is not None
        if word is None or statements.is_admin_word(word, by_the_issuing=True):
            return False
        self.admin.use(statements.say_admin(word.number, word.hashes))
        return True

    def _check_room(self, node: NodeId) -> None:
        check_node_id(node)
        if node not in self.revoked and len(self.revoked) >= REVOKED_MAX:
            raise Overloaded(
                f"the cluster has expelled {REVOKED_MAX} nodes, more cannot be told",
                hint="frys-node node remove takes it off the ring; nothing but a new cluster forgets the expelled",
            )

    def revoke(self, node: NodeId) -> None:
        """Refuse a node from now on, durably; without a statement nobody else does.

        Raises:
            Overloaded: `REVOKED_MAX` nodes are expelled already. Nothing changed.
            UsageError: That is no node id. Nothing changed.
            StorageError: The disk refused. The node is refused all the same, and `flush` tries again.
        """
        self._check_room(node)
        if self._merge_revoked((node,)):
            self._unsaved.add(REVOKED_PATH)
            try:
                self.flush()
            finally:
                self.on_change()

    def depart(self, node: NodeId) -> None:
        """Count a node as gone for good, durably, and have it told, signed. On the issuer.

        Raises:
            UsageError: That is no node id. Nothing changed.
            StorageError: The disk refused. It is told all the same, and `flush` tries again.
        """
        check_node_id(node)
        if self._merge_departed((node,)):
            self._unsaved.add(DEPARTED_PATH)
            try:
                self.flush()
            finally:
                self.on_change()

    def _take_departed(self, offered: Credentials) -> bool:
        """Take who has left; the signature is looked at only where the list says something new."""
        statements, nodes = self.statements, offered.departed
        if statements is None or all(node in self.departed for node in nodes):
            return False
        return statements.is_departed(nodes, offered.departed_signature) and self._merge_departed(map(NodeId, nodes))

    def _merge_departed(self, nodes: Iterable[NodeId]) -> bool:
        fresh = [node for node in nodes if node not in self.departed and is_node_id(node)]
        self.departed.update(dict.fromkeys(fresh))
        while len(self.departed) > DEPARTURES_MAX:
            del self.departed[next(iter(self.departed))]
        return bool(fresh)

    def endorse(self, made_unix_s: int = 0) -> bool:
        """Sign what an earlier issuer or version left unsigned; True if there was anything. On the issuer.

        Keys whose age nobody noted get the one given here: else each restart would begin to count anew.

        Raises:
            NotReady: This node does not hold the authority's key. Nothing changed.
            StorageError: The disk refused. It is used all the same, and `flush` tries again.
        """
        statements = self.statements
        assert statements is not None, "the channel brings the statements"
        state = (self.keyring.revision, self.expulsions, len(self.revoked), self.admin.word, statements.authority)
        if state == self._endorsed:
            return False
        has_expulsion = False
        if self.revoked and not any(
            len(said.nodes) == len(self.revoked) and statements.is_said(said, by_the_issuing=True)
            for said in self.expulsions
        ):
            has_expulsion = self._keep((statements.expel(self.revoked),))
        unsigned = [key for key in self.keyring.keys if not statements.is_ours(key, by_the_issuing=True)]
        aged = [msgspec.structs.replace(key, made_unix_s=key.made_unix_s or made_unix_s) for key in unsigned]
        has_keys = self.keyring.merge(map(statements.sign_key, aged), from_issuer=True)
        has_admin = self._endorse_admin()
        self._note(has_expulsion, REVOKED_PATH)
        self._note(has_keys, KEYRING_PATH)
        self._note(has_admin, ADMIN_HASHES_PATH)
        self.flush()
        self._endorsed = (
            self.keyring.revision,
            self.expulsions,
            len(self.revoked),
            self.admin.word,
            statements.authority,
        )
        return has_expulsion or has_keys or has_admin

    def retire(self) -> bool:
        """Delete the keys that an expelled node may know, here and on the disk; True if there were any.

        Raises:
            StorageError: The disk refused; they are not used any more, and deleted after a restart.
        """
        if not self.keyring.retire():
            return False
        self._unsaved.add(KEYRING_PATH)
        self.flush()
        return True

    def _merge_expulsions(self, offered: Iterable[Expulsion]) -> bool:
        statements = self.statements
        if statements is None:
            return False
        return self._keep([said for said in offered if statements.is_said(said) and self._says_more(said)])

    def _says_more(self, said: Expulsion) -> bool:
        """True if a statement names more than those held, or the same and is signed by the authority that issues now.

        Two members that each took the other's for better would tell each other, and everybody, for ever.
        """
        assert self.statements is not None, "the channel brings the statements"
        for held in self.expulsions:
            if set(said.nodes) < set(held.nodes):
                return False
            if said.nodes == held.nodes:
                is_issuing = partial(self.statements.is_said, by_the_issuing=True)
                return said != held and is_issuing(said) and not is_issuing(held)
        return True

    def _signed_anew(self, keys: Iterable[EpochKey]) -> list[EpochKey]:
        """Return keys that are held under a signature of an authority that issues no more, and come with a new one."""
        statements = self.statements
        if statements is None:
            return []
        is_issuing = partial(statements.is_ours, by_the_issuing=True)
        held = {(key.rank, key.key): key for key in self.keyring.keys}
        pairs = [(key, held.get((key.rank, key.key))) for key in keys if key not in self.keyring.keys]
        return [key for key, mine in pairs if mine is not None and is_issuing(key) and not is_issuing(mine)]

    def _keep(self, fresh: Iterable[Expulsion]) -> bool:
        """Keep statements that say something new, and forget those that others say too; the nodes are never forgotten.

        Of two that name the same nodes the later is kept: it may be signed by a newer key of the authority.
        """
        kept: list[Expulsion] = []
        for said in sorted((*fresh, *self.expulsions), key=lambda said: -len(said.nodes)):
            if not any(set(said.nodes) <= set(other.nodes) for other in kept):
                kept.append(said)
        has_revoked = self._merge_revoked(NodeId(node) for said in kept for node in said.nodes)
        has_changed = tuple(kept[:EXPULSIONS_MAX]) != self.expulsions
        self.expulsions = tuple(kept[:EXPULSIONS_MAX])
        return has_changed or has_revoked

    def _merge_revoked(self, nodes: Iterable[NodeId]) -> bool:
        has_changed = False
        for node in nodes:
            if node not in self.revoked and is_node_id(node) and len(self.revoked) < REVOKED_MAX:
                self.revoked[node] = None
                has_changed = True
        return has_changed


def _decode(data: bytes | None) -> tuple[Expulsion, ...]:
    if data is None:
        return ()
    try:
        return msgspec.msgpack.decode(data, type=tuple[Expulsion, ...])
    except msgspec.MsgspecError as error:
        raise CorruptData(
            f"{EXPULSIONS_PATH} is damaged: {error}", hint=f"remove {EXPULSIONS_PATH}; it is sent again"
        ) from error


def _nothing() -> None:
    """Nobody listens yet."""
    return
