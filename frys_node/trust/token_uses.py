"""When API tokens were used last, as the nodes that live remember it.

Each node remembers in memory, to the minute, so a use costs no disk and a restart forgets. Whoever is asked for the
list asks the others; who does not answer in time is left out, and the answer says of how many nodes it is. A member may
say what it likes here: a token that looks unused is no proof that it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
import trio

from frys_node.base.errors import FrysError
from frys_node.base.ports import Clock
from frys_node.base.types import NodeId
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.secure.api_tokens import API_TOKENS_MAX, ApiTokens, Whole
from frys_node.secure.token import TokenInfo
from frys_node.wire.codec import Message

ASK_TIMEOUT_S = 2.0
"""Longest wait for the others."""

log = logging.getLogger(__name__)


class AskUses(Message, frozen=True):
    """Ask a member when it saw tokens last."""


class ToldUses(Message, frozen=True):
    """Unix seconds by the token's id, of those that were shown since the member started."""

    uses: Annotated[dict[str, Whole], msgspec.Meta(max_length=API_TOKENS_MAX)]


TOKEN_USES: Method[AskUses, ToldUses] = Method("channel.api_token_uses", AskUses, ToldUses)


class TokenUses:
    """Answers others, and asks them."""

    def __init__(
        self, tokens: ApiTokens, rpc: Rpc, clock: Clock, *, members: Callable[[], Sequence[tuple[NodeId, str]]]
    ) -> None:
        self._tokens = tokens
        self._rpc = rpc
        self._clock = clock
        self._members = members

    def serve(self) -> None:
        """Answer members."""
        self._rpc.serve(TOKEN_USES, self._tell)

    async def _tell(self, _caller: NodeId, _request: AskUses) -> ToldUses:
        await trio.lowlevel.checkpoint()
        return ToldUses(self._tokens.uses())

    async def add_to(self, infos: Sequence[TokenInfo]) -> tuple[list[TokenInfo], int, int]:
        """Return the list with the last uses, how many nodes have said theirs, and of how many; both with this one."""
        latest = self._tokens.uses()
        now_unix_s = self._clock.unix_ns() // 1_000_000_000
        others = [node for node, _ in self._members() if node != self._rpc.self_id]
        told = 1

        async def ask(node: NodeId) -> None:
            nonlocal told
            try:
                answer = await self._rpc.call(node, TOKEN_USES, AskUses())
            except FrysError as error:
                log.debug("channel.token_uses_not_told", extra={"peer": node, "error": error.message})
                return
            told += 1
            for token_id, used in answer.uses.items():
                latest[token_id] = max(latest.get(token_id, 0), min(used, now_unix_s))

        with trio.move_on_after(ASK_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for node in others:
                    nursery.start_soon(ask, node)
        return (
            [msgspec.structs.replace(info, last_used_at=latest.get(info.id)) for info in infos],
            told,
            1 + len(others),
        )
