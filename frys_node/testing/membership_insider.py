"""A member that lies: it has every key that seals packets, and makes up what others are supposed to have said.

Sans-I/O. The liar takes part honestly, for its own voice is worth something only while it lives, and several times a
second tells a few members a forgery: deaths with one accuser or with signatures of its own under other names, other
addresses, leaves, incarnations beyond all that were, crashes that others are said to have seen, events. What it may say
in its own name it says as well. The claim: nobody dies, nobody moves, nobody leaves, nobody's incarnations are used up,
and nothing that was forged is delivered; all that the liar gets is suspicions, which are refuted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.members import Status
from frys_node.testing.membership_cluster import Cluster
from frys_node.testing.membership_node import WIRE, Ask, MembershipNode, Sealed
from frys_node.testing.scenario import ScenarioResult
from frys_node.testing.simulator import Packet
from membership.effects import Effect, EventHeard
from membership.member import make_attributes
from membership.messages import (
    INCARNATION_MAX,
    NOBODY,
    PACKETS,
    UPDATES_MAX,
    Accusation,
    Evidence,
    Gossip,
    Standing,
    Sync,
    Update,
)
from membership.rumours import RUMOURS, Rumour, Rumours, UserEvent
from membership.testimony import CrashReport, Vouch, VouchKind
from membership.voices import Signing

LIE_S = 0.1
"""How often the liar lies."""

LIE = "lie"
"""The command to lie."""

Lie = tuple[str, Sequence[Update], Sequence[Rumour]]


class LiarNode(MembershipNode):
    """A node that lies about others when it is told to."""

    def start(self, now_s: float) -> Sequence[Packet]:
        """Boot."""
        self.told: Counter[str] = Counter()
        self.heard: list[str] = []
        return super().start(now_s)

    def _perform(self, effects: Iterable[Effect], now_s: float) -> list[Packet]:
        effects = list(effects)
        self.heard += [effect.event.name for effect in effects if isinstance(effect, EventHeard)]
        return super()._perform(effects, now_s)

    def wake(self, token: object, now_s: float) -> Sequence[Packet]:
        """Tell some members a lie."""
        if token != LIE:
            return super().wake(token, now_s)
        views = [view for view in self.machine.views(now_s) if view.id != self.node]
        if len(views) < 3:
            return ()
        rng = self._host.rng
        victim, other, third = rng.sample([view.id for view in views], 3)
        lies = self._lies(victim, other, third, now_s)
        name, updates, rumours = lies[rng.randrange(len(lies))]
        self.told[name] += 1
        message = Gossip(tuple(updates)[:UPDATES_MAX], tuple(RUMOURS.encode(rumour) for rumour in rumours))
        listeners = rng.sample([view.address.host for view in views], 3)
        # What fits into no packet is told in an exchange of tables, where it needs no packet.
        told = Ask(Sync(tuple(updates))) if len(updates) > 2 else Sealed(self.boot, PACKETS.encode(message))
        return [Packet(host, WIRE.encode(told)) for host in listeners]

    @staticmethod
    def _accused(signing: Signing, update: Update, standing: Standing) -> Update:
        mine = signing.verdict((update.node, update.boot, update.incarnation), Evidence.CRASH)
        said = replace(update, standing=standing, accuser=mine.accuser, evidence=mine.evidence, word=mine.word)
        return replace(said, accusations=())

    def _lies(self, victim: NodeId, other: NodeId, third: NodeId, now_s: float) -> list[Lie]:
        signing = Signing(self.node, self.voices)
        (held,) = [update for update in self.machine.sync(NOBODY, now_s).updates if update.node == victim]
        life = (victim, held.boot, held.incarnation)
        mine = signing.verdict(life, Evidence.GONE)
        everybody = [u for u in self.machine.sync(NOBODY, now_s).updates if u.node != self.node]
        (own,) = [u for u in self.machine.sync(NOBODY, now_s).updates if u.node == self.node]
        accusing = [self._accused(signing, update, Standing.SUSPECT) for update in everybody]
        burying = [self._accused(signing, update, Standing.DEAD) for update in everybody]
        crash = signing.accusation(life, Evidence.CRASH)
        forged = Accusation(other, Evidence.GONE, mine.word)
        accused = replace(held, standing=Standing.SUSPECT, accuser=self.node, evidence=Evidence.GONE, word=mine.word)
        dead = replace(accused, standing=Standing.DEAD, accusations=(forged,))
        moved = replace(
            held, incarnation=held.incarnation + 1, attributes=make_attributes("moved", Address("elsewhere", 7946))
        )
        worded = Rumours(1_000, self.machine.tallies, signing)
        return [
            # All others suspect by its word, it has left or falls silent: its word is all there is, and not enough.
            ("lie_all_dead", (*accusing, *burying), ()),
            ("lie_all_dead_and_gone", (*accusing, _left(signing, own), *burying), ()),
            ("lie_accused", (accused,), ()),
            ("lie_accused_by_another", (replace(accused, accuser=other),), ()),
            ("lie_dead", (dead,), ()),
            ("lie_dead_twice_by_one", (replace(dead, accusations=(mine,)),), ()),
            ("lie_dead_at_a_later_incarnation", (replace(dead, incarnation=held.incarnation + 3),), ()),
            ("lie_moved", (signing.claimed(moved),), ()),
            ("lie_left", (replace(held, standing=Standing.LEFT),), ()),
            ("lie_let_go", (replace(dead, standing=Standing.LEFT, word=signing.release(life)),), ()),
            ("lie_used_up", (replace(accused, incarnation=INCARNATION_MAX),), ()),
            ("lie_rebooted", (signing.claimed(replace(held, boot=held.boot + (9 << 32), incarnation=0)),), ()),
            (
                "lie_crashed",
                (),
                [CrashReport(*life, observer, True, word=crash.word) for observer in (self.node, other, third)],
            ),
            ("lie_vouched", (), (worded.signed(Vouch(*life, other, VouchKind.HELPER, 1 << 60)),)),
            ("lie_event", (), (worded.signed(UserEvent(other, held.boot, 9, 9, 0, "forged")),)),
        ]


def _left(signing: Signing, own: Update) -> Update:
    """A leave of a life that the liar does not lead: its real one goes on, and refutes."""
    return signing.claimed(replace(own, standing=Standing.LEFT))


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed: one member lies for `seconds`."""
    cluster = Cluster("insider", nodes, seconds, seed, faults, shell=LiarNode)
    simulator = cluster.simulator
    cluster.checker.has_liar = True

    def lie() -> None:
        cluster.settle()
        liar = cluster.rng.choice(cluster.names)
        before = _seen(cluster)
        for step in range(int(seconds / LIE_S)):
            simulator.inject(liar, LIE)
            cluster.run(LIE_S)
            if step % 10 == 0:
                for (observer, member), (status, address, boot) in _seen(cluster).items():
                    text = f"{observer} believes the liar that {member} is {status.value} at {address}, boot {boot}"
                    is_so = (address, boot) == before[observer, member][1:]
                    # Of itself it may say what it likes.
                    is_so = is_so and (status in (Status.ALIVE, Status.SUSPECT) or member == cluster.id_of(liar))
                    simulator.check(is_so, text)
        node = cluster.node(liar)
        assert isinstance(node, LiarNode)
        for name in node.told:
            simulator.reach(name)
        incarnations = [view.incarnation for view in node.machine.views(simulator.now_s)]
        cluster.measure("incarnation", [float(max(incarnations))])
        cluster.measure("false_deaths", [float(cluster.verdicts.counts["dead"])])
        heard = [name for other in cluster.up() if isinstance(other, LiarNode) for name in other.heard]
        simulator.check(not heard, f"forged events were delivered: {heard[:3]}")

    def calm() -> None:
        cluster.measure("settled_s", [cluster.agree(60.0, "M6: the views do not agree once the liar is silent")])

    return cluster.report([lie, calm, cluster.merge_all])


def _seen(cluster: Cluster) -> dict[tuple[NodeId, NodeId], tuple[Status, Address, int]]:
    """What everybody thinks of everybody."""
    now_s = cluster.simulator.now_s
    return {
        (node.node, view.id): (view.status, view.address, view.boot)
        for node in cluster.up()
        for view in node.machine.views(now_s)
    }
