"""The issuer's loop: tell the live members what to trust, and take the next step when all of them have it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import trio
from cryptography.hazmat.primitives.serialization import Encoding

from frys_node.base.errors import FrysError, NotReady, Overloaded
from frys_node.base.types import NodeId
from frys_node.kernel.services.rpc import Rpc
from frys_node.secure import certificates
from frys_node.secure.identity import Identity
from frys_node.trust.authority import AuthorityHolder
from frys_node.trust.expulsion import checked
from frys_node.trust.rotation import (
    ASK_AUTHORITY,
    ROTATE_AUTHORITY,
    TRUST,
    AskAuthority,
    AuthorityView,
    MemberTrust,
    RotateAuthority,
    Rotation,
    Stage,
    Step,
    Wanted,
    encode_trust,
    held_by,
)
from frys_node.trust.rotation_desk import RotationDesk

log = logging.getLogger(__name__)

ROTATE_EVERY_S = 86_400.0
"""Pause between two changes that members ask for: a member in wrong hands must not use up the changes that another one
may miss (`secure.trust.MISSED_MAX`). The issuer's own operator is not bound by it."""
STRANGERS_SHOWN_MAX = 8
POLL_S = 0.5
"""Pause between looks while a change is under way."""
LOOK_EVERY_S = 10.0
"""Otherwise: who came back meanwhile is told then."""
TELL_S = 5.0
"""Longest wait for one member; it renews its certificate meanwhile."""
TELL_AT_ONCE_MAX = 16
HOLD_S = 30.0
"""After a start amid a change no step is taken for this long: the members that live are not all known yet."""


class RotationDriver:
    """Carries a change of the authority through. One on each node; only the issuer's does anything."""

    def __init__(
        self,
        identity: Identity,
        holder: AuthorityHolder,
        desk: RotationDesk,
        rpc: Rpc,
        *,
        members: Callable[[], Sequence[tuple[NodeId, str]]],
        rotate_keys: Callable[[float], None],
    ) -> None:
        """`members` returns ids and names of the members that live, this node among them.

        `rotate_keys` makes another gossip key if the present one was made before that time (Unix seconds).
        """
        self._identity = identity
        self._holder = holder
        self._desk = desk
        self._rpc = rpc
        self._all_members = members
        self._rotate_keys = rotate_keys
        self._stale_before: float | None = desk.changed_at
        """Gossip keys of before are to be replaced once all have moved: who had the old authority has had them."""
        self._asked_by = ""
        self._machine = Rotation()
        self._errors: dict[NodeId, str] = {}
        self._wake = trio.Event()
        self._hold_until_s = 0.0

    def serve(self) -> None:
        """Answer for the authority."""
        self._rpc.serve(ASK_AUTHORITY, self._serve_ask)
        self._rpc.serve(ROTATE_AUTHORITY, self._serve_rotate)

    async def _serve_ask(self, caller: NodeId, request: AskAuthority) -> AuthorityView:
        await trio.lowlevel.checkpoint()
        return self.view()

    async def _serve_rotate(self, caller: NodeId, request: RotateAuthority) -> AuthorityView:
        await trio.lowlevel.checkpoint()
        if not self._holder.is_issuer:
            raise NotReady("this node is not the issuer", hint="ask the issuer: frys-node issuer show says who it is")
        asked_by = checked(request.asked_by, "replace the authority")
        self._check_pace(caller)
        self._holder.check_confirmed()
        self._desk.begin()
        # Nobody can undo it, and it is the only trace of who had it done.
        log.warning("channel.rotation_begun", extra={"asked_by": asked_by, "through": caller})
        self._asked_by = f"{asked_by} through {dict(self._all_members()).get(caller, caller)}"
        self._wake.set()
        return self.view()

    def _check_pace(self, caller: NodeId) -> None:
        left_s = ROTATE_EVERY_S - self._desk.age_s
        if caller != self._identity.node_id and left_s > 0:
            raise Overloaded(
                f"the authority was replaced less than {ROTATE_EVERY_S / 3_600:g} h ago",
                hint=f"retry in {left_s / 3_600:.1f} h, or run it on the issuer: frys-node issuer show says who it is",
            )

    def _members(self) -> list[tuple[NodeId, str]]:
        """Return the members that live and were admitted. A stranger's certificate is not renewed: it never moves."""
        members = self._all_members()
        strangers = self._holder.strangers(members)
        return [member for member in members if member not in strangers]

    def _strangers(self) -> list[str]:
        """Name whoever looks like a member and is none, by the issuer's registry."""
        return [f"{name} ({node})" for node, name in self._holder.strangers(self._all_members())]

    def view(self) -> AuthorityView:
        """Return how far it is, by what this node knows; only the issuer knows of the others."""
        identity, wanted = self._identity, self._desk.wanted
        self._machine.answered(identity.node_id, held_by(identity))
        members = [
            MemberTrust(
                name=name,
                id=node,
                has_moved=not self._desk.was_rotated or self._machine.has_moved(node, wanted),
                error=self._errors.get(node, ""),
            )
            for node, name in self._members()
        ]
        return AuthorityView(
            stage=wanted.stage.value,
            kind=identity.kind,
            authority=identity.ca_hash,
            expires_at=int(identity.ca_certificate.not_valid_after_utc.timestamp()),
            also_trusted=wanted.authorities[1:],
            retired=tuple(map(certificates.spki_hash, identity.retired)),
            certificates="".join(one.public_bytes(Encoding.PEM).decode() for one in identity.authorities),
            moved=sum(member.has_moved for member in members),
            total=len(members),
            members=sorted(members, key=lambda member: (member.name, member.id)),
            strangers=tuple(self._strangers()),
            changed_at=self._desk.changed_at,
            asked_by=self._asked_by,
        )

    async def run(self) -> None:
        """Look, tell, step, for as long as the node runs."""
        if self._desk.wanted.stage is not Stage.STABLE:
            self._hold_until_s = trio.current_time() + HOLD_S
        while True:
            wait_s = LOOK_EVERY_S
            if not self._holder.is_issuer:
                self._machine.forget()
            elif self._desk.was_rotated:
                try:
                    wait_s = await self.round()
                except FrysError as error:
                    log.error("channel.rotation_waits", extra={"error": error.message, "fix": error.hint})
            with trio.move_on_after(wait_s):
                await self._wake.wait()
            self._wake = trio.Event()

    async def round(self) -> float:
        """Tell whoever is behind, take the step that is due, and return the seconds until the next look.

        Raises:
            FrysError: The step failed; the stage before stands.
        """
        wanted = self._desk.wanted
        live = [node for node, _ in self._members()]
        self._machine.forget(live)
        self._machine.answered(self._identity.node_id, held_by(self._identity))
        limiter = trio.CapacityLimiter(TELL_AT_ONCE_MAX)
        async with trio.open_nursery() as nursery:
            for node in self._machine.behind(wanted, live):
                nursery.start_soon(self._tell, node, limiter)
        if wanted != self._desk.wanted:
            return 0.0
        self._give_keys(wanted, live)
        step = self._machine.step(wanted, live)
        if step is None or trio.current_time() < self._hold_until_s:
            return self._pause(wanted, live)
        strangers = self._strangers()
        if strangers:
            fix = "if nobody let them in: frys-node node revoke ID; if they are yours: frys-node node admit ID"
            log.error("channel.strangers_not_moved", extra={"peers": strangers[:STRANGERS_SHOWN_MAX], "fix": fix})
        if step is Step.SWITCH:
            self._desk.switch()
        else:
            self._desk.retire()
            self._stale_before = math.inf
        return 0.0

    def _give_keys(self, wanted: Wanted, live: Sequence[NodeId]) -> None:
        """Rotate the gossip keys once no live member trusts the old authority.

        Raises:
            FrysError: The disk refused. It is tried again with the next round.
        """
        is_whole = wanted.stage is Stage.STABLE and not self._machine.behind(wanted, live)
        if is_whole and self._stale_before is not None:
            self._rotate_keys(self._stale_before)
            self._stale_before = None

    def _pause(self, wanted: Wanted, live: Sequence[NodeId]) -> float:
        is_done = wanted.stage is Stage.STABLE and not self._machine.behind(wanted, live)
        return LOOK_EVERY_S if is_done else POLL_S

    async def _tell(self, node: NodeId, limiter: trio.CapacityLimiter) -> None:
        if node == self._identity.node_id:
            return
        async with limiter:
            try:
                with trio.fail_after(TELL_S):
                    held = await self._rpc.call(node, TRUST, encode_trust(self._identity.trust))
            except trio.TooSlowError:
                self._errors[node] = f"no answer within {TELL_S:g} s"
            except FrysError as error:
                self._errors[node] = error.message
            else:
                self._errors.pop(node, None)
                self._machine.answered(node, held)
