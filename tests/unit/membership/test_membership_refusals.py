"""Sends that this node's own system refuses: trouble at home, told as such, and no accusation of the member."""

from __future__ import annotations

import pytest
from membership_hands import BOOT, CONFIG, ME, B, C, D, accused, address, hear, machine, status

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import UNWELL, Condition, Status
from membership.config import MembershipConfig, for_profile
from membership.effects import Effect, Nudge, SendPacket, SendRefused
from membership.findings import Nudged, Response
from membership.insight import Sight, Who
from membership.machine import Membership
from membership.messages import PACKETS, Ack, Beat, BeatAck, Nack, NackReason, Packet, Ping, PingReq
from membership.reachability import Answer, judge
from membership.refusals import QUIET_S, RECENT_S, STALE_S, Refusals

WATCHING = for_profile("lan")


class House:
    """A node whose system refuses to send to B, which speaks to it all the same; C and D answer."""

    def __init__(self, m: Membership, helper: NackReason | None = NackReason.UNREACHABLE) -> None:
        self.m = m
        self.helper = helper
        """Why helpers do not reach B either; None if they do."""
        self.is_refusing = self.is_heard = True
        self.now_s = 0.0
        self.out: list[Effect] = []

    def live(self, until_s: float) -> None:
        """Drive the machine; B pings it once a second."""
        while self.now_s < until_s:
            self.now_s = min(self.m.next_deadline_s, float(int(self.now_s) + 1), until_s)
            if self.is_heard and self.now_s == int(self.now_s):
                self._take(hear(self.m, Ping(int(self.now_s), ME), B, self.now_s))
            if self.now_s >= self.m.next_deadline_s:
                self._take(self.m.advance(self.now_s))

    def _take(self, effects: list[Effect]) -> None:
        self.out += effects
        for effect in effects:
            if isinstance(effect, Nudge):
                self._take(self.m.found(Nudged(effect.node, effect.boot, Response.ACKNOWLEDGED), self.now_s))
            elif isinstance(effect, SendPacket):
                node = next(node for node in (B, C, D) if address(node) == effect.address)
                if node == B and self.is_refusing:
                    self._take(self.m.send_refused(effect.address, self.now_s))
                    continue
                reply = self._answer(node, PACKETS.decode(effect.payload))
                if reply is not None:
                    self._take(hear(self.m, reply, node, self.now_s))

    def _answer(self, node: NodeId, message: Packet) -> Packet | None:
        match message:
            case Ping():
                return Ack(message.sequence, node)
            case Beat():
                return BeatAck(message.sequence)
            case PingReq() if message.target == B and self.helper is not None:
                return Nack(message.sequence, B, (), self.helper, boot=BOOT, word=accused(B, node)[0].word)
            case PingReq():
                return Ack(message.sequence, message.target)
        return None


def condition(m: Membership) -> Condition:
    """How B does, as of the last turn."""
    view = m.view(B)
    assert view is not None
    return view.condition


@pytest.mark.parametrize("config", [CONFIG, WATCHING], ids=["probes", "watchers"])
def test_who_was_never_asked_is_not_accused_of_silence(config: MembershipConfig) -> None:
    """Neither by a probe nor by a watcher, and nobody vouches for what was not asked either: it is hard to reach."""
    house = House(machine(B, C, D, config=config))
    house.live(120.0)
    m = house.m
    assert status(m, B) is Status.ALIVE
    assert condition(m) is Condition.DEGRADED
    assert m.rank(B) == UNWELL
    whats = [entry.what for entry in m.story(B)]
    assert whats.count("unsendable") == 1
    assert not {"suspected", "vouched"} & set(whats)
    assert [effect for effect in house.out if isinstance(effect, SendRefused)] == [SendRefused(B, address(B))]


def test_helpers_that_did_ask_accuse_for_themselves() -> None:
    """Their packets went out and came to nothing: this node only passes on what they found."""
    house = House(machine(B, C, D), NackReason.TIMEOUT)
    house.is_heard = False
    house.live(4.5)
    assert status(house.m, B) is Status.SUSPECT
    accusers = {entry.who for entry in house.m.story(B) if entry.what in ("suspected", "confirmed")}
    assert accusers <= {C, D}
    assert accusers


def test_who_is_not_heard_for_long_either_is_accused_all_the_same() -> None:
    """A route that is gone for good must not keep a dead member alive for ever."""
    house = House(machine(B))
    house.is_heard = False
    house.live(CONFIG.stall_max_s - 1.0)
    assert status(house.m, B) is Status.ALIVE
    house.live(CONFIG.stall_max_s + 90.0)
    assert status(house.m, B) is Status.DEAD


def test_an_answer_ends_it() -> None:
    """With the route back, the member is well, and can be accused like any other."""
    house = House(machine(B, C, D))
    house.live(20.0)
    assert house.m.insight.why(B, 20.0, 0).cannot_send_since_unix_ns is not None
    house.is_refusing = False
    house.live(30.0)
    assert condition(house.m) is Condition.OK
    assert house.m.insight.why(B, 30.0, 0).cannot_send_since_unix_ns is None


def test_reachability_names_who_cannot_send_to_whom() -> None:
    """As a problem of its own kind, from the observer's sight."""
    house = House(machine(B, C, D))
    house.live(10.0)
    m = house.m
    sight = m.insight.sight(m.insight.digest, 10.0)
    assert sight.cannot_send == (B,)
    twin = Sight(True, (), (), 0, False)
    found = judge(m.insight.who(ME), m.views(), {ME: Answer(0.0, sight), C: Answer(0.1, twin)}, ())
    assert [(p.kind, p.member, p.observer) for p in found.problems] == [
        ("cannot_send", Who(id=B, name="1"), Who(id=ME, name="0"))
    ]


def test_refusals_are_told_once_and_pass() -> None:
    """A burst is one; they explain a silence for a moment, and end with an answer, not with mere packets."""
    refusals = Refusals()
    assert refusals.note(B, 1.0)
    assert not refusals.note(B, 2.0)
    assert refusals.is_recent(B, 2.0 + RECENT_S - 0.1)
    assert not refusals.is_recent(B, 2.0 + RECENT_S)
    refusals.heard(B, 20.0, is_answer=False)
    assert refusals.excuses(B, 29.0, 10.0)
    assert not refusals.excuses(B, 30.0, 10.0)
    assert refusals.since_s(B, 30.0) == 1.0
    assert refusals.since_s(B, 2.1 + STALE_S) is None
    refusals.heard(B, 31.0, is_answer=True)
    assert (refusals.since_s(B, 31.0), refusals.nodes(31.0)) == (None, [])
    assert not refusals.note(B, 40.0)
    assert (refusals.since_s(B, 41.0), refusals.nodes(41.0)) == (40.0, [B])
    assert refusals.note(B, 40.1 + QUIET_S)
    refusals.forget(B)
    assert len(refusals) == 0
