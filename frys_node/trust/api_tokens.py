"""The sheet of API tokens on its way from the issuer to every member.

The issuer tells each member by a call and knows by the answer what it holds; whoever did not answer is told again when
its connection stands, and every `RETELL_S`. A member takes a sheet only from the node that it knows as the issuer, and
only a newer one (`secure.api_tokens`); its answer names tokens of the sheet that it knows to be revoked, which the
issuer then revokes. Nothing else that a member says changes the sheet, but its number. So a revocation is in force at
the members that answered when `tell_all` returns, and at the others once they are connected to the issuer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

import trio

from frys_node.base.errors import FrysError, NotReady, SecurityError
from frys_node.base.ports import Clock, Entropy
from frys_node.base.types import NodeId
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.secure.api_tokens import ID_BYTES, SECRET_BYTES, ApiTokens, Grant, TokenSheet, Version, Whole
from frys_node.secure.token import TokenInfo
from frys_node.wire.codec import Message

COMPLAIN_AT = 2
"""A member that has just been let in is asked before it answers: the first failure is no news."""

RETELL_S = 5.0
"""Pause before members that did not answer are told again; also the longest wait for the role of the issuer."""

TELL_TIMEOUT_S = 2.0
"""Longest wait for one member's answer."""

TELL_ROUNDS_MAX = 3

log = logging.getLogger(__name__)


class TellTokens(Message, frozen=True):
    """The issuer's sheet."""

    sheet: TokenSheet


class HeldTokens(Message, frozen=True):
    """The version that the member holds now, and ids of tokens in the sheet that it was told which are revoked."""

    term: Whole
    seq: Whole
    revoked: tuple[str, ...] = ()
    digest: bytes = b""
    """See `TokenSheet.digest`."""


TELL_TOKENS: Method[TellTokens, HeldTokens] = Method("channel.tell_api_tokens", TellTokens, HeldTokens)


class ApiTokenDesk:
    """Makes and revokes tokens on the issuer, and keeps every member's sheet up to date."""

    def __init__(
        self,
        tokens: ApiTokens,
        rpc: Rpc,
        entropy: Entropy,
        clock: Clock,
        *,
        issuer: Callable[[], NodeId],
        term: Callable[[], int],
        members: Callable[[], Sequence[tuple[NodeId, str]]],
        enrolled: Callable[[], Collection[NodeId]] = tuple,
    ) -> None:
        """`issuer` and `term` are those of the topology record; `members` are the ids and names of who lives.

        `enrolled` are the members that the record has, the silent ones, too: they may still serve clients somewhere.
        """
        self._tokens = tokens
        self._rpc = rpc
        self._entropy = entropy
        self._clock = clock
        self._issuer = issuer
        self._term = term
        self._members = members
        self._enrolled = enrolled
        self._told: dict[NodeId, Version] = {}
        self._failed: dict[NodeId, tuple[Version, int]] = {}
        """About which version a member was told in vain, and how often; that is logged once."""
        self._wake = trio.Event()

    @property
    def is_issuer(self) -> bool:
        """True if this node writes the sheet."""
        return self._issuer() == self._rpc.self_id

    def serve(self) -> None:
        """Take sheets from the issuer."""
        self._rpc.serve(TELL_TOKENS, self._serve_tell)

    async def _serve_tell(self, caller: NodeId, request: TellTokens) -> HeldTokens:
        await trio.lowlevel.checkpoint()
        if caller != self._issuer():
            raise SecurityError("only the issuer tells which API tokens there are")
        if caller != self._rpc.self_id and self._tokens.take(request.sheet, self._now_unix_s()):
            log.info("channel.api_tokens_taken", extra={"peer": caller, "count": len(request.sheet.tokens)})
        own = self._tokens.sheet
        return HeldTokens(own.term, own.seq, self._tokens.unheard_of(request.sheet), own.digest)

    def connected(self, node: NodeId, _boot: int, ending: str | None) -> None:
        """Note that a connection stands or is gone: whoever comes back may be another life with an older disk."""
        self._told.pop(node, None)
        if ending is None:
            self.wake()

    def wake(self) -> None:
        """Look again who has to be told: the role may have come here."""
        self._wake.set()

    # On the issuer.

    def _check_role(self) -> None:
        if not self.is_issuer:
            raise NotReady("this node is not the issuer", hint="ask the issuer: frys-node issuer show says who it is")

    def create(
        self, grant: Grant, *, made_through: str = "", is_taken: Callable[[str], bool] = lambda _id: False
    ) -> tuple[str, TokenInfo]:
        """Make a token, durably; see `ApiTokens.create`. `is_taken` says whether another kind of token has the id.

        Raises:
            NotReady: This node is not the issuer. Nothing was made.
        """
        self._check_role()
        drawn = self._entropy.token_bytes(SECRET_BYTES + ID_BYTES)
        while self._tokens.has(drawn[SECRET_BYTES:].hex()) or is_taken(drawn[SECRET_BYTES:].hex()):
            drawn = self._entropy.token_bytes(SECRET_BYTES + ID_BYTES)
        made = self._tokens.create(
            drawn, grant, now_unix_s=self._now_unix_s(), term=self._term(), made_through=made_through
        )
        self.wake()
        return made

    def revoke(self, token_id: str) -> None:
        """Make a token useless, durably; `NotFound` if there is none. See `create` for the rest."""
        self._check_role()
        self._tokens.revoke(token_id, term=self._term())
        self.wake()

    def infos(self) -> list[TokenInfo]:
        """Every API token, oldest first; on any member."""
        return self._tokens.infos(self._now_unix_s())

    def _now_unix_s(self) -> int:
        return self._clock.unix_ns() // 1_000_000_000

    async def tell(self, node: NodeId) -> None:
        """Bring one member's sheet up to date; raises as calls do, and `NotReady` if it did not take it."""
        sheet = self._tokens.sheet
        answer = await self._rpc.call(node, TELL_TOKENS, TellTokens(sheet))
        held = Version(answer.term, answer.seq)
        if answer.revoked and self.is_issuer and self._tokens.bury(answer.revoked, term=self._term()):
            log.warning("channel.api_tokens_revoked_before", extra={"peer": node, "count": len(answer.revoked)})
        # Compared with what this node holds by now: another call may have told the member of a change meanwhile.
        own = self._tokens.sheet
        is_other = held == own.version and answer.digest not in (b"", own.digest)
        if (held > own.version or is_other) and self.is_issuer:
            # This disk is an old copy: the member holds what an earlier life of this node wrote.
            # The next round tells it, not this one at once: a member could go on for ever.
            self._tokens.outrun(held, term=self._term())
            log.warning("channel.api_tokens_behind", extra={"peer": node, "held": held, "own": own.version})
            raise NotReady("the member holds a newer sheet of API tokens; it is told again")
        if held < sheet.version:
            raise NotReady("the member did not take the sheet of API tokens")
        self._told[node] = max(held, self._told.get(node, held))

    async def tell_all(self) -> tuple[int, int]:
        """Tell every live member that is behind; return how many hold the sheet now, and of how many, this one too.

        The members that the record has and nobody hears count among the latter.

        Raises:
            NotReady: The role went to another node meanwhile, whose sheet counts.
        """
        members = [node for node, _ in self._members() if node != self._rpc.self_id]
        silent: set[NodeId] = set()

        async def tell(node: NodeId) -> None:
            try:
                with trio.fail_after(TELL_TIMEOUT_S):
                    await self.tell(node)
            except Exception as error:  # noqa: BLE001 (whatever one member answers, the others are told)
                version = self._tokens.sheet.version
                before, times = self._failed.get(node, (version, 0))
                times = times + 1 if before == version else 1
                if times == COMPLAIN_AT:
                    log.warning("channel.api_tokens_not_told", extra={"peer": node, "error": str(error)})
                self._failed[node] = version, times
                silent.add(node)

        # A connection that was replaced meanwhile, or a change, makes one ask again who has answered.
        for _ in range(TELL_ROUNDS_MAX):
            async with trio.open_nursery() as nursery:
                for node in self._behind(members):
                    if node not in silent:
                        nursery.start_soon(tell, node)
        if not self.is_issuer:
            raise NotReady(
                "the issuer's role moved while the members were told of the API tokens",
                hint="look whether it is done (frys-node token list), and ask again if not",
            )
        everybody = {self._rpc.self_id, *members, *self._enrolled()}
        return 1 + len(members) - len(self._behind(members)), len(everybody)

    def _behind(self, members: Sequence[NodeId]) -> list[NodeId]:
        return [node for node in members if self._told.get(node) != self._tokens.sheet.version]

    async def run(self) -> None:
        """While this node is the issuer, keep everybody's sheet up to date."""
        while True:
            self._wake = trio.Event()
            if self.is_issuer:
                try:
                    self._tokens.reign(self._term())
                    await self.tell_all()
                except FrysError as error:
                    log.error("channel.api_tokens_not_written", extra={"error": error.message})
            else:
                self._told.clear()
                self._failed.clear()
            with trio.move_on_after(RETELL_S):
                await self._wake.wait()
