"""What `frys-node why` says of crashes, losses, stops, pauses, bad links, isolations, refutations and departures.

Each text comes from the real machine, driven by literal times, through the JSON body and the command's own rendering.
`PYTHONPATH=.:tests/unit/membership .venv/bin/python tests/golden/test_golden_why.py` writes them anew.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from membership_hands import BOOT, ME, Answer, address, dead, hear, nobody, said, sent, signed, well
from msgspec.structs import replace

from frys_node.base.types import NodeId
from frys_node.cli.why import explain
from frys_node.testing.voices import FakeVoices
from membership.config import for_profile
from membership.edges import Edge
from membership.effects import Nudge, Reconnect
from membership.findings import LifelineDown, LifelineEnd, LifelineUp, Nudged, PortState, Response, Tried
from membership.machine import Membership
from membership.member import make_attributes
from membership.messages import Beat, BeatAck, Evidence, Gossip, NackReason, Packet, Standing, Sync, Update
from membership.testimony import CrashReport

HERE = Path(__file__).parent
CID, DEE, EVE, BOB = (NodeId(f"{digit:a>32}") for digit in "1234")
"""Bob is the last one in the circle before Ann, who therefore watches him, as Cid and Dee do."""

NAMES = {ME: "ann", BOB: "bob", CID: "cid", DEE: "dee", EVE: "eve"}
CONFIG = for_profile("lan")
MIDNIGHT_NS = 1_767_225_600_000_000_000
"""2026-01-01 00:00:00 UTC, when the machines' clocks begin."""


def claim(node: NodeId, standing: Standing = Standing.ALIVE, incarnation: int = 0) -> Update:
    """Say something about a member of a cluster in which people know each other by name."""
    return signed(Update(node, BOOT, incarnation, standing, make_attributes(NAMES[node], address(node))))


def machine(knows: tuple[NodeId, ...] = (CID, DEE, EVE, BOB)) -> Membership:
    """Make Ann's machine, which knows the others, and has lifelines to those that it watches."""
    made = Membership(
        node=ME,
        boot=BOOT,
        attributes=make_attributes(NAMES[ME], address(ME)),
        config=CONFIG,
        rng=random.Random(1),
        now_s=0.0,
        voices=FakeVoices(ME),
        unix_offset_ns=MIDNIGHT_NS,
    )
    made.merge_sync(Sync(tuple(claim(node) for node in knows)), CID, 0.0)
    for node in knows[1:]:
        made.found(LifelineUp(node, BOOT), 0.0)
    return made


def beating(answer: Answer) -> Answer:
    """Beats are answered by whoever would answer a ping."""

    def answered(node: NodeId, message: Packet) -> Packet | None:
        if not isinstance(message, Beat):
            return answer(node, message)
        is_there = answer is well or (answer is not nobody and node != BOB)
        return BeatAck(message.sequence) if is_there else None

    return answered


def play(m: Membership, until_s: float, answer: Answer = well, *, response: Response = Response.SILENT) -> None:
    """Drive the machine through its deadlines while others answer in half a millisecond."""
    nodes = {address(node): node for node in NAMES}
    pending: list[tuple[float, NodeId, Packet]] = []
    while True:
        now_s = min([m.next_deadline_s, *(at_s for at_s, _, _ in pending)])
        if now_s > until_s:
            return
        arrived, pending = [p for p in pending if p[0] <= now_s], [p for p in pending if p[0] > now_s]
        effects = [effect for _, source, reply in arrived for effect in hear(m, reply, source, now_s)]
        effects += m.advance(now_s) if now_s >= m.next_deadline_s else []
        for nudge in [effect for effect in effects if isinstance(effect, Nudge)]:
            effects += m.found(Nudged(nudge.node, nudge.boot, response, nudge.patience_s), now_s)
        for where, message in sent(effects):
            reply = beating(answer)(nodes[where], message)
            if reply is not None:
                pending.append((now_s + 0.0005, nodes[where], reply))


def play_until(m: Membership, standing: Standing, answer: Answer, start_s: float) -> float:
    """Drive the machine until somebody has that standing; returns about when."""
    now_s = start_s
    while not m.count(standing):
        now_s += 0.1
        assert now_s < start_s + 60.0
        play(m, now_s, answer)
    return now_s


def body(m: Membership, name: str, now_s: float) -> dict[str, Any]:
    """Return what ``GET /v1/members/{name}/why`` answers at an instant."""
    encoded = msgspec.json.encode(m.insight.why(name, now_s, MIDNIGHT_NS + round(now_s * 1e9)))
    decoded: dict[str, Any] = msgspec.json.decode(encoded)
    return decoded


def told(m: Membership, name: str, now_s: float) -> str:
    """Return what the command prints at an instant."""
    return explain(body(m, name, now_s), dt.UTC) + "\n"


def crash() -> str:
    """Bob is killed: Ann and Cid lose their lifelines and are refused."""
    m = machine()
    play(m, 20.0)
    lost = m.found(LifelineDown(BOB, BOOT, LifelineEnd.LOST), 20.001)
    assert any(isinstance(effect, Reconnect) for effect in lost)
    m.found(Tried(BOB, BOOT, PortState.REFUSED), 20.003)
    hear(m, Gossip((), (said(CrashReport(BOB, BOOT, 0, CID, True)),)), CID, 20.004)
    play(m, 22.0, dead(BOB))
    return told(m, "bob", 60.0)


def crash_suspicion() -> str:
    """The same, while it is still time to refute."""
    m = machine()
    play(m, 20.0)
    m.found(LifelineDown(BOB, BOOT, LifelineEnd.LOST), 20.001)
    m.found(Tried(BOB, BOOT, PortState.REFUSED), 20.003)
    hear(m, Gossip((), (said(CrashReport(BOB, BOOT, 0, CID, True)),)), CID, 20.004)
    return told(m, "bob", 20.25)


def silent_loss() -> str:
    """Bob's machine loses its power: nobody hears it, and nothing says why."""
    m = machine()
    play(m, 20.0)
    play(m, 21.6, dead(BOB))
    for watcher, now_s in ((CID, 21.7), (DEE, 22.1)):
        found = signed(replace(claim(BOB, Standing.SUSPECT), accuser=watcher, evidence=Evidence.GONE))
        hear(m, Gossip((found,)), watcher, now_s)
        play(m, now_s + 0.1, dead(BOB))
    play(m, 50.0, dead(BOB))
    return told(m, "bob", 60.0)


def pause() -> str:
    """Bob's process is stopped: nothing answers but its kernel."""
    m = machine()
    play(m, 20.0)
    play(m, 26.0, dead(BOB), response=Response.ACKNOWLEDGED)
    return told(m, "bob", 26.0)


def own_pause() -> str:
    """Ann's own process was stopped for twelve seconds, and tells of itself when it goes on."""
    m = machine()
    play(m, 20.0)
    m.advance(32.0)
    accusation = signed(Update(ME, BOOT, 0, Standing.SUSPECT, make_attributes("ann", address(ME)), CID))
    hear(m, Gossip((accusation,)), CID, 32.001)
    return told(m, "ann", 33.0)


def degraded() -> str:
    """Three of the four others get no answer from Bob directly, as they tell each other."""
    m = machine()
    play(m, 0.5)
    for node, now_s in ((CID, 1.0), (DEE, 3.5), (EVE, 4.25)):
        play(m, now_s)
        hear(m, Gossip((), (said(Edge(node, BOB, int(now_s))),)), node, now_s)
    play(m, 10.0)
    return told(m, "bob", 10.0)


def isolation() -> str:
    """Ann's own cable is pulled."""
    m = machine()
    play(m, 10.0)
    play(m, 40.0, nobody)
    return told(m, "ann", 40.0)


def isolated_view() -> str:
    """What Ann says of Bob meanwhile."""
    m = machine()
    play(m, 10.0)
    play(m, 40.0, nobody)
    return told(m, "bob", 40.0)


def refuted() -> str:
    """Bob was out of reach for a while, heard that it is suspected, and answered."""
    m = machine()
    play(m, 20.0)
    now_s = play_until(m, Standing.SUSPECT, dead(BOB), 20.0)
    play(m, now_s + 1.2, dead(BOB))
    hear(m, Gossip((claim(BOB, incarnation=1),)), BOB, now_s + 1.2)
    play(m, now_s + 3.0)
    return told(m, "bob", now_s + 3.0)


def stop() -> str:
    """Bob is stopped by a signal and not started again: it says so on its connections."""
    m = machine()
    play(m, 20.0)
    m.found(LifelineDown(BOB, BOOT, LifelineEnd.STOPPED), 20.001)
    play(m, 50.0, dead(BOB))
    return told(m, "bob", 60.0)


def unsendable() -> str:
    """Ann's own system refuses to send to Bob, whose packets still come."""
    m = machine()
    play(m, 20.0)
    for at_s in range(21, 29):
        play(m, at_s - 0.5, dead(BOB, reason=NackReason.UNREACHABLE), response=Response.ACKNOWLEDGED)
        m.send_refused(address(BOB), at_s - 0.5)
        play(m, float(at_s), dead(BOB, reason=NackReason.UNREACHABLE), response=Response.ACKNOWLEDGED)
        hear(m, Gossip(), BOB, float(at_s))
    return told(m, "bob", 28.0)


def hearsay() -> str:
    """Ann hears from Cid that Bob is dead, and has missed everything before."""
    m = machine()
    play(m, 20.0)
    death = signed(replace(claim(BOB, Standing.DEAD), accuser=DEE, evidence=Evidence.CRASH))
    hear(m, Gossip((death,)), CID, 20.004)
    return told(m, "bob", 60.0)


def latecomer() -> str:
    """Ann joined half a minute after Bob's death: what she was told at the join is all that she has."""
    m = machine(knows=(CID, DEE, EVE))
    death = signed(replace(claim(BOB, Standing.DEAD), accuser=DEE, evidence=Evidence.CRASH, age_s=30))
    m.merge_sync(Sync((death,)), CID, 40.0)
    return told(m, "bob", 60.0)


def leave() -> str:
    """Bob leaves, as it says itself; Ann hears of it from Cid."""
    m = machine()
    play(m, 20.0)
    hear(m, Gossip((claim(BOB, Standing.LEFT, incarnation=1),)), CID, 20.0)
    return told(m, "bob", 60.0)


def forced_leave() -> str:
    """Bob is dead, and Ann is asked to count it as left."""
    m = machine()
    hear(m, Gossip((signed(replace(claim(BOB, Standing.DEAD), accuser=DEE, evidence=Evidence.CRASH)),)), CID, 0.4)
    m.force_leave("bob", 0.5)
    return told(m, "bob", 60.0)


def forced_leave_elsewhere() -> str:
    """The same, as Ann hears it of Eve."""
    m = machine()
    hear(m, Gossip((signed(replace(claim(BOB, Standing.DEAD), accuser=DEE, evidence=Evidence.CRASH)),)), CID, 0.4)
    hear(m, Gossip((signed(replace(claim(BOB, Standing.LEFT), accuser=EVE)),)), CID, 0.5)
    return told(m, "bob", 60.0)


def forced_leave_survived() -> str:
    """Eve has counted Ann as left, who is there all the same."""
    m = machine()
    hear(m, Gossip((signed(replace(claim(ME, Standing.LEFT), accuser=EVE)),)), CID, 0.5)
    return told(m, "ann", 60.0)


SCENES: dict[str, Callable[[], str]] = {
    "crash": crash,
    "crash-suspicion": crash_suspicion,
    "silent-loss": silent_loss,
    "pause": pause,
    "own-pause": own_pause,
    "degraded": degraded,
    "isolation": isolation,
    "isolated-view": isolated_view,
    "refuted": refuted,
    "stop": stop,
    "unsendable": unsendable,
    "hearsay": hearsay,
    "latecomer": latecomer,
    "leave": leave,
    "forced-leave": forced_leave,
    "forced-leave-elsewhere": forced_leave_elsewhere,
    "forced-leave-survived": forced_leave_survived,
}


@pytest.mark.parametrize("scene", SCENES)
def test_why_tells_it_as_it_was(scene: str) -> None:
    """The text names accusers, evidence, votes and times, and stays as it is."""
    assert SCENES[scene]() == (HERE / f"why-{scene}.txt").read_text()


if __name__ == "__main__":
    for name, scene in SCENES.items():
        (HERE / f"why-{name}.txt").write_text(scene())
