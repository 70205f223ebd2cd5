"""The exchange of whole tables, and of the voices that its claims need.

Sans-I/O. Each side's first piece brings the statement on its own voice, and an answer those of members that the asker
has not named. Claims may have further voices that the other side has never heard of; it asks for those
(`membership.held`), and whoever told the claims mostly knows them.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from frys_node.base.types import NodeId
from membership.claims import Claims
from membership.held import ASKED_MAX
from membership.messages import NOBODY, SYNC_UPDATES_MAX, Sync
from membership.reunion import Reunion
from membership.talk import Talk

STATEMENTS_BYTES_MAX = 512 * 1024
"""Statements in one answer; the rest is asked for again."""

ANSWER_STATEMENTS_BYTES_MAX = 192 * 1024
"""Statements that ride with a piece of a table, whose claims and heads take up to 976 KiB of a frame already."""


class Exchange:
    """One node's side of exchanges."""

    __slots__ = ("_claims", "_reunion", "_talk")

    def __init__(self, claims: Claims, reunion: Reunion, talk: Talk) -> None:
        self._claims = claims
        self._reunion = reunion
        self._talk = talk

    def piece(self, after: NodeId, wants_after: NodeId, now_s: float) -> Sync:
        """Return the members beyond `after`, in order of id; `wants_after` asks the other side likewise."""
        updates, more = self._claims.table.piece(after, SYNC_UPDATES_MAX, now_s)
        if after != NOBODY:
            return Sync(updates, wants_after, more)
        return Sync(updates, wants_after, more, self._talk.said(), (self._claims.signing.own_statement,))

    def answer(self, request: Sync, now_s: float) -> Sync:
        """Return what the other side asks for, with the voices of members that it has not named.

        Whoever has started a moment ago knows nobody's, and would have to ask before it believes anything.
        """
        piece = self.piece(request.after, NOBODY, now_s)
        if request.more:
            return piece
        named = {update.node for update in request.updates} | {self._claims.node}
        unnamed = tuple(update.node for update in piece.updates if update.node not in named)
        statements = self._claims.signing.statements(unnamed, ANSWER_STATEMENTS_BYTES_MAX)
        return replace(piece, statements=(*piece.statements, *statements))

    def merge(self, sync: Sync, source: NodeId, now_s: float) -> None:
        """Take a piece of another member's table."""
        self.learn(sync.statements, now_s)
        returned = sum(self._claims.hearing.take(update, source, now_s) for update in sync.updates)
        if returned:
            self._reunion.hasten(now_s)
        if sync.said:
            self._talk.meet(sync.said, source, now_s)

    def statements(self, nodes: tuple[NodeId, ...]) -> tuple[bytes, ...]:
        """Return what is known of these nodes' voices, as much as one answer holds."""
        return self._claims.signing.statements(nodes[:ASKED_MAX], STATEMENTS_BYTES_MAX)

    def learn(self, statements: Iterable[bytes], now_s: float) -> None:
        """Take whose voices there are, and settle what waited for them."""
        returned = sum(self._claims.hearing.learn(statement, now_s) for statement in statements)
        if returned:
            self._reunion.hasten(now_s)
