"""Rotation of the gossip keys: the issuer makes a key, it spreads over ``frys/1``, and everybody says what it holds.

A new key is only opened with at first; each node seals with it `KEY_SETTLE_S` after it has arrived there, when it has
long reached whoever is connected. A member that is cut off meanwhile gets it with its next connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import trio

from frys_node.base.errors import FrysError, NotReady
from frys_node.base.ports import Entropy
from frys_node.base.types import NodeId
from frys_node.channel.credentials import MemberSecrets
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.secure.keyring import KEY_BYTES
from frys_node.wire.codec import Message

KEY_SETTLE_S = 1.0
"""From the arrival of a key to sealing with it."""

SURVEY_TIMEOUT_S = 2.0
"""Longest wait for one member's answer."""

POLL_S = 0.1


class AskKeys(Message, frozen=True):
    """Which epochs do you hold?"""


class HeldKeys(Message, frozen=True):
    """Epochs of the keys held, highest first, and of the one that this node seals with. Never the keys."""

    epochs: tuple[int, ...]
    primary: int


class RotateKeys(Message, frozen=True):
    """Ask the issuer for a new key."""


class MemberKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What one member holds, as it says; nothing if it did not answer."""

    name: str
    id: NodeId
    epochs: tuple[int, ...] = ()
    primary: int | None = None
    error: str = ""


class KeySurvey(msgspec.Struct, frozen=True, kw_only=True):
    """Everybody's epochs, and how many members seal with the newest one."""

    epoch: int
    converged: int
    total: int
    members: list[MemberKeys]


HELD_KEYS: Method[AskKeys, HeldKeys] = Method("channel.held_keys", AskKeys, HeldKeys)
ROTATE_KEYS: Method[RotateKeys, HeldKeys] = Method("channel.rotate_keys", RotateKeys, HeldKeys)


class KeyDesk:
    """Answers for this node's keyring, and asks the others about theirs."""

    def __init__(self, rpc: Rpc, secrets: MemberSecrets, entropy: Entropy, *, may_rotate: Callable[[], bool]) -> None:
        self._rpc = rpc
        self._secrets = secrets
        self._entropy = entropy
        self._may_rotate = may_rotate
        rpc.serve(HELD_KEYS, self._held)
        rpc.serve(ROTATE_KEYS, self._rotate)

    def held(self) -> HeldKeys:
        """Return this node's epochs."""
        keyring = self._secrets.keyring
        primary = keyring.primary
        return HeldKeys(tuple(key.epoch for key in keyring.keys), 0 if primary is None else primary.epoch)

    async def _held(self, caller: NodeId, request: AskKeys) -> HeldKeys:
        return self.held()

    async def _rotate(self, caller: NodeId, request: RotateKeys) -> HeldKeys:
        if not self._may_rotate():
            raise NotReady("this node is not the issuer", hint="ask the issuer: frys-node ring shows who it is")
        if not self._secrets.keyring.is_settled:
            raise NotReady("the last key is still spreading", hint=f"retry in {KEY_SETTLE_S:g} s")
        self._secrets.rotate(self._entropy.token_bytes(KEY_BYTES))
        return self.held()

    async def survey(self, members: Sequence[tuple[NodeId, str]]) -> KeySurvey:
        """Ask members, this node among them, at the same time; who does not answer is named."""
        found: list[MemberKeys] = []

        async def ask(node: NodeId, name: str) -> None:
            try:
                with trio.fail_after(SURVEY_TIMEOUT_S):
                    held = await self._rpc.call(node, HELD_KEYS, AskKeys())
            except trio.TooSlowError:
                found.append(MemberKeys(name=name, id=node, error=f"no answer within {SURVEY_TIMEOUT_S:g} s"))
            except FrysError as error:
                found.append(MemberKeys(name=name, id=node, error=error.message))
            else:
                found.append(MemberKeys(name=name, id=node, epochs=held.epochs, primary=held.primary))

        async with trio.open_nursery() as nursery:
            for node, name in members:
                nursery.start_soon(ask, node, name)
        newest = max((max(held.epochs, default=0) for held in found), default=0)
        return KeySurvey(
            epoch=newest,
            converged=sum(held.primary == newest for held in found),
            total=len(found),
            members=sorted(found, key=lambda held: (held.name, held.id)),
        )

    async def converged(self, members: Callable[[], Sequence[tuple[NodeId, str]]]) -> KeySurvey:
        """Survey until everybody seals with the newest key; the caller's cancel scope bounds it."""
        while True:
            survey = await self.survey(members())
            if survey.converged == survey.total:
                return survey
            await trio.sleep(POLL_S)
