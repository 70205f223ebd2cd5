"""Who may say what: claims are signed by the member that they are about, or by whoever accuses it.

Sans-I/O. The key of an epoch seals packets, and every member has it: so it proves that a member speaks, not which one.
What matters is therefore signed by a key of one member alone, its *voice*: what it says of itself (alive with a boot,
an incarnation and attributes; gone), what it accuses others of, and what it spreads as a rumour. Whoever passes a claim
on passes its signatures on, and nobody else can make them. A voice is an Ed25519 key, whatever kind the identities are
of, because nothing larger fits into packets; a *statement* signed by the identity says whose it is, and travels over
the channel to whoever hears a voice that it does not know.

What is signed is the encoding of the fields named here with a prefix of its own, so that no signature can be taken for
one over something else. Source: security study, section 3.5; design, fine print 12.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from frys_node.base.types import NodeId
from membership.messages import NOBODY, SIGNATURE_BYTES_MAX, VERDICT, Accusation, Evidence, Standing, Update

_CLAIM = b"frys claim v1\0"
_ACCUSATION = b"frys accusation v1\0"
_RELEASE = b"frys release v1\0"
_RUMOUR = b"frys rumour v1\0"

WORDS_KEPT = 64
"""Own accusations whose signatures are kept: a suspect is accused again with each probe."""

Life = tuple[NodeId, int, int]
"""Node, boot, incarnation."""


class Voices(Protocol):
    """Signs with this node's voice and verifies those of others."""

    def sign(self, data: bytes) -> bytes:
        """Sign with this node's voice."""
        ...

    def verify(self, node: NodeId, data: bytes, signature: bytes) -> bool | None:
        """True if the node's voice signed; False if not, or if it was expelled; None if its voice is not known."""
        ...

    def learn(self, statement: bytes) -> NodeId | None:
        """Remember whose voice it is; returns the node, or None if nobody need believe the statement."""
        ...

    def has(self, statement: bytes) -> bool:
        """True if that very statement has been learnt."""
        ...

    def statement(self, node: NodeId) -> bytes:
        """Return the statement on a node's voice, for others to learn; empty if it is not known."""
        ...

    def forget(self, node: NodeId) -> None:
        """Drop a node's voice: it is no member any more."""
        ...


class Signing:
    """Signs and verifies claims for one node."""

    __slots__ = ("_node", "_voices", "_words")

    def __init__(self, node: NodeId, voices: Voices) -> None:
        self._node = node
        self._voices = voices
        self._words: dict[tuple[Life, int], bytes] = {}

    @property
    def own_statement(self) -> bytes:
        """Whose voice this node's is."""
        return self._voices.statement(self._node)

    def statements(self, nodes: tuple[NodeId, ...], size_bytes_max: int) -> tuple[bytes, ...]:
        """Return the statements on these nodes' voices, as many as that holds."""
        found: list[bytes] = []
        for node in nodes:
            statement = self._voices.statement(node)
            size_bytes_max -= len(statement)
            if size_bytes_max < 0:
                break
            if statement:
                found.append(statement)
        return tuple(found)

    def has(self, statement: bytes) -> bool:
        """True if that very statement is known: nothing follows from it."""
        return self._voices.has(statement)

    def learn(self, statement: bytes) -> NodeId | None:
        """Remember whose voice it is; None if the statement proves nothing."""
        return self._voices.learn(statement)

    def forget(self, node: NodeId) -> None:
        """Drop a node's voice."""
        self._voices.forget(node)

    # Claims about oneself.

    def claimed(self, update: Update) -> Update:
        """Return what this node says of itself, signed."""
        return msgspec.structs.replace(update, proof=self._voices.sign(_claim_bytes(update)), word=b"", accusations=())

    def is_claimed(self, update: Update) -> bool | None:
        """True if the member itself said this of its boot, incarnation and attributes; None if its voice is unknown."""
        return self._voices.verify(update.node, _claim_bytes(update), update.proof)

    # Claims about others.

    def accusation(self, life: Life, evidence: Evidence) -> Accusation:
        """Accuse a member's life: others may confirm it, and the accused refutes it in time."""
        return self._accuse(life, evidence, int(evidence))

    def verdict(self, life: Life, evidence: Evidence) -> Accusation:
        """Declare a member's life to be over, once this node's own suspicion has run out."""
        return self._accuse(life, evidence, VERDICT + evidence)

    def _accuse(self, life: Life, evidence: Evidence, strength: int) -> Accusation:
        key = (life, strength)
        word = self._words.get(key)
        if word is None:
            word = self._words[key] = bytes([strength]) + self._voices.sign(_accusation_bytes(life, strength))
            if len(self._words) > WORDS_KEPT:
                del self._words[next(iter(self._words))]
        return Accusation(self._node, evidence, word)

    def is_accused(self, life: Life, accusation: Accusation) -> bool | None:
        """True if the accuser said so, on that evidence or better; None if its voice is unknown."""
        word = accusation.word
        if len(word) != SIGNATURE_BYTES_MAX or word[0] % VERDICT < accusation.evidence:
            return False
        return self._voices.verify(accusation.accuser, _accusation_bytes(life, word[0]), word[1:])

    def release(self, life: Life) -> bytes:
        """Declare that a dead member has left."""
        return self._voices.sign(_release_bytes(life))

    def is_released(self, update: Update) -> bool | None:
        """True if the accuser declared that the member has left; None if its voice is unknown."""
        return self._voices.verify(update.accuser, _release_bytes(life_of(update)), update.word)

    # Rumours.

    def word(self, data: bytes) -> bytes:
        """Sign a rumour, encoded without its signature."""
        return self._voices.sign(_RUMOUR + data)

    def is_word(self, author: NodeId, data: bytes, word: bytes) -> bool | None:
        """True if the author signed the rumour; None if its voice is unknown."""
        return self._voices.verify(author, _RUMOUR + data, word)


def life_of(update: Update) -> Life:
    """Return whose life a claim is about."""
    return update.node, update.boot, update.incarnation


def is_own_leave(update: Update) -> bool:
    """True if the member says itself that it leaves."""
    return update.standing is Standing.LEFT and update.accuser in (NOBODY, update.node)


def accusations_in(update: Update) -> tuple[Accusation, ...]:
    """Return who accuses the member in a claim that it is suspect, dead, or gone because somebody says so."""
    if update.standing is Standing.ALIVE:
        return ()
    found: dict[NodeId, Accusation] = {}
    if update.accuser and update.standing is not Standing.LEFT:
        found[update.accuser] = Accusation(update.accuser, update.evidence, update.word)
    for one in update.accusations:
        found.setdefault(one.accuser, one)
    found.pop(update.node, None)
    return tuple(found.values())


def told_to_itself(update: Update, boot: int | None = None) -> Update:
    """Return what is claimed of a life for the member that lives it, or for a boot of it that may be an earlier one.

    Its own signature it has, and one accuser is enough to refute; a former self has to be shown that it has said so.
    """
    is_later = boot is not None and update.boot > boot
    return msgspec.structs.replace(update, proof=update.proof if is_later else b"", accusations=())


def _claim_bytes(update: Update) -> bytes:
    said = (update.node, update.boot, update.incarnation, is_own_leave(update), update.attributes)
    return _CLAIM + msgspec.msgpack.encode(said)


def _accusation_bytes(life: Life, strength: int) -> bytes:
    return _ACCUSATION + msgspec.msgpack.encode((*life, strength))


def _release_bytes(life: Life) -> bytes:
    return _RELEASE + msgspec.msgpack.encode(life)
