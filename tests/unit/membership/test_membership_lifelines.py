"""Dialling, looking at ports and nudging, on the fake network and virtual time, and once on loopback."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable

import pytest
import trio
import trio.testing
from membership_hands import BOOT, B, C, machine

from frys_node.base.errors import NodeUnreachable
from frys_node.base.ports import Network, Stream
from frys_node.base.types import Address, NodeId
from frys_node.channel.connection import Ending
from frys_node.secure.errors import HandshakeRefused
from frys_node.testing.clock import FakeClock
from frys_node.testing.network import FakeNetwork
from frys_node.transport.network import SystemNetwork
from membership.config import for_profile
from membership.driver_lifelines import HOLD_S, RACE_LIMIT_S, Lifelines, race, try_port
from membership.effects import Effect, Nudge, Reconnect
from membership.findings import (
    Finding,
    LifelineDown,
    LifelineEnd,
    LifelineUp,
    Nudged,
    PortState,
    Refused,
    Response,
    Tried,
)
from membership.machine import Membership
from membership.watch import ANSWER_S, NUDGE_TIMEOUT_S

SUBJECT = Address("10.0.0.2", 7_946)
LIMIT_S = 10


class Subject:
    """The other end: accepts connections and keeps them, or breaks the first few."""

    def __init__(self, network: FakeNetwork, breaks: int = 0) -> None:
        self.network = network
        self.breaks = breaks
        self.accepted: list[float] = []

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Accept until closed."""
        listener = await self.network.host(SUBJECT.host).listen(SUBJECT)
        task_status.started()
        kept = []
        while True:
            stream, _ = await listener.accept()
            self.accepted.append(trio.current_time())
            if len(self.accepted) <= self.breaks:
                stream.reset()
            else:
                kept.append(stream)
            if self.breaks and len(self.accepted) == self.breaks:
                listener.close()
                return


def here(network: FakeNetwork) -> Network:
    """The network as the watcher sees it."""
    return network.host("10.0.0.1")


async def test_a_closed_port_refuses_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """ECONNREFUSED of the first attempt ends the race; the others are not waited for."""
    network = FakeNetwork()
    network.host(SUBJECT.host)
    start_s = trio.current_time()
    assert await race(here(network), SUBJECT) == (PortState.REFUSED, None)
    assert trio.current_time() - start_s < 0.05
    assert await try_port(here(network), SUBJECT) is PortState.REFUSED


async def test_an_open_port_must_stay_open(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    """Accepted, and still there 30 ms later: a process, whether it runs or not."""
    network = FakeNetwork()
    await nursery.start(Subject(network).run)
    start_s = trio.current_time()
    assert await try_port(here(network), SUBJECT) is PortState.OPEN
    assert trio.current_time() - start_s >= HOLD_S


async def test_what_breaks_after_it_was_accepted_is_tried_again(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """A dying process accepts into its backlog and resets: after 5 and 10 ms, until its listener is closed too."""
    network = FakeNetwork()
    subject = Subject(network, breaks=2)
    await nursery.start(subject.run)
    assert await try_port(here(network), SUBJECT) is PortState.REFUSED
    first_s, second_s = subject.accepted
    assert 0.005 <= second_s - first_s <= 0.01


async def test_a_listener_that_only_breaks_proves_nothing(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Five repetitions, and then it is OTHER: neither a crash nor a life."""
    network = FakeNetwork()
    subject = Subject(network, breaks=10)
    await nursery.start(subject.run)
    assert await try_port(here(network), SUBJECT) is PortState.OTHER
    assert len(subject.accepted) == 6


async def test_no_answer_ends_after_the_limit(autojump_clock: trio.testing.MockClock) -> None:
    """A partition is SILENT, a name without an address OTHER."""
    network = FakeNetwork()
    network.host(SUBJECT.host)
    network.partition(["10.0.0.1"], [SUBJECT.host])
    start_s = trio.current_time()
    assert await try_port(here(network), SUBJECT) is PortState.SILENT
    assert trio.current_time() - start_s == pytest.approx(RACE_LIMIT_S)
    assert await try_port(here(network), Address("nowhere.test", 1)) is PortState.OTHER


async def test_loopback_refuses_and_accepts_alike() -> None:
    """The kernel's own answers: a listener that is closed refuses, one that nobody accepts from is open."""
    network = SystemNetwork()
    with trio.fail_after(LIMIT_S):
        listener = await network.listen(Address("127.0.0.1", 0))
        assert await try_port(network, listener.address) is PortState.OPEN
        await listener.aclose()
        assert await try_port(network, listener.address) is PortState.REFUSED


class FakeLine:
    """A connection with a kernel at the other end, or none."""

    def __init__(self, counts: Iterable[int | None], answers_after_s: float = math.inf) -> None:
        self._counts = list(counts)
        self._answers_after_s = answers_after_s
        self._nudged_s = math.inf

    def nudge(self) -> None:
        """Take the time."""
        self._nudged_s = trio.current_time()

    @property
    def reads(self) -> int:
        """What has come from a process that answers so long after it was nudged."""
        return int(trio.current_time() - self._nudged_s >= self._answers_after_s)

    def unacknowledged_bytes(self) -> int | None:
        """What the kernel would say this time; the last word stands."""
        return self._counts.pop(0) if len(self._counts) > 1 else self._counts[0]


class FakeChannel:
    """A channel by hand: connections come and go as a test wants it."""

    def __init__(self) -> None:
        self.lines: dict[NodeId, FakeLine] = {}
        self.refusals: list[Exception] = []
        self.greeted: list[NodeId] = []
        self._handlers: list[Callable[[NodeId, int, Ending | None], None]] = []

    def on_connection(self, handler: Callable[[NodeId, int, Ending | None], None]) -> None:
        """Register."""
        self._handlers.append(handler)

    def is_connected(self, node: NodeId) -> bool:
        """True while a line stands."""
        return node in self.lines

    def lifeline(self, node: NodeId, boot: int) -> FakeLine | None:
        """The line of that boot."""
        return self.lines.get(node) if boot == BOOT else None

    def address(self, node: NodeId) -> Address | None:
        """Everybody is at one place."""
        return SUBJECT

    async def greet(self, node: NodeId, transport: Stream, address: Address) -> None:
        """Refuse as planned, else connect."""
        await trio.lowlevel.checkpoint()
        self.greeted.append(node)
        if self.refusals:
            await transport.aclose()
            raise self.refusals.pop(0)
        self.up(node)

    def up(self, node: NodeId, line: FakeLine | None = None) -> None:
        """A connection stands."""
        self.lines[node] = line or FakeLine([0])
        self._tell(node, None)

    def down(self, node: NodeId, ending: Ending) -> None:
        """It has ended."""
        del self.lines[node]
        self._tell(node, ending)

    def _tell(self, node: NodeId, ending: Ending | None) -> None:
        for handler in self._handlers:
            handler(node, BOOT, ending)


class Bench:
    """Lifelines over a machine that notes what is found."""

    def __init__(self, network: FakeNetwork) -> None:
        self.network = network
        self.channel = FakeChannel()
        self.found: list[Finding] = []
        self.effects: list[Effect] = []
        self.machine = machine(B, C, config=for_profile("lan"))
        original = self.machine.found

        def found(finding: Finding, now_s: float) -> list[Effect]:
            self.found.append(finding)
            return original(finding, now_s)

        self.machine.found = found  # type: ignore[method-assign]
        self.lifelines = Lifelines(
            machine=self.machine,
            clock=FakeClock(),
            rng=random.Random(1),
            network=here(network),
            channel=self.channel,
            perform=self.effects.extend,
        )

    def last(self, kind: type[Finding]) -> Finding | None:
        """The last finding of a kind."""
        return next((f for f in reversed(self.found) if isinstance(f, kind)), None)


@pytest.fixture
def bench(nursery: trio.Nursery) -> Bench:
    """Lifelines that run."""
    made = Bench(FakeNetwork())
    made.network.host(SUBJECT.host)
    made.lifelines.start(nursery)
    return made


async def test_wanted_connections_are_made_and_made_anew(
    autojump_clock: trio.testing.MockClock, bench: Bench, nursery: trio.Nursery
) -> None:
    """Dialled at once, again after a goodbye, and no more when nobody wants them."""
    await nursery.start(Subject(bench.network).run)
    bench.lifelines.keep((B,))
    await trio.sleep(0.1)
    assert bench.channel.greeted == [B]
    assert bench.found == [LifelineUp(B, BOOT)]
    bench.channel.down(B, Ending.GOODBYE)
    await trio.sleep(1.0)
    assert bench.found[1:] == [LifelineDown(B, BOOT, LifelineEnd.GOODBYE), LifelineUp(B, BOOT)]
    bench.lifelines.keep(())
    bench.channel.down(B, Ending.SILENT)
    await trio.sleep(10.0)
    assert bench.channel.greeted == [B, B]


async def test_dials_that_fail_are_spread_out(autojump_clock: trio.testing.MockClock, bench: Bench) -> None:
    """Nobody is there: pauses double up to five seconds."""
    attempts: list[float] = []
    original = bench.network.host("10.0.0.1").connect

    async def connect(address: Address) -> object:
        attempts.append(trio.current_time())
        return await original(address)

    bench.network.host("10.0.0.1").connect = connect  # type: ignore[method-assign, assignment]
    bench.lifelines.keep((B,))
    await trio.sleep(60.0)
    assert 12 <= len(attempts) <= 30


async def test_a_lost_lifeline_is_dialled_again_and_the_outcome_told(
    autojump_clock: trio.testing.MockClock, bench: Bench, nursery: trio.Nursery
) -> None:
    """Refused: nobody listens. Greeted: the finding says so, and who answered is for `LifelineUp` to say."""
    bench.channel.up(B)
    bench.lifelines.keep((B,))
    bench.channel.down(B, Ending.LOST)
    assert bench.found[-1] == LifelineDown(B, BOOT, LifelineEnd.LOST)
    bench.lifelines.reconnect(B, BOOT, SUBJECT)
    await trio.sleep(0.1)
    assert bench.last(Tried) == Tried(B, BOOT, PortState.REFUSED)
    await nursery.start(Subject(bench.network).run)
    bench.lifelines.reconnect(B, BOOT, SUBJECT)
    await trio.sleep(0.1)
    assert bench.found[-2:] == [LifelineUp(B, BOOT), Tried(B, BOOT, PortState.OPEN)]


@pytest.mark.parametrize(
    ("refusal", "greetings"),
    [(HandshakeRefused("eof", "gone"), 2), (HandshakeRefused("chain", "a stranger"), 1), (NodeUnreachable("odd"), 1)],
)
async def test_a_greeting_that_fails_is_repeated_only_if_it_was_cut_off(
    autojump_clock: trio.testing.MockClock,
    bench: Bench,
    nursery: trio.Nursery,
    refusal: Exception,
    greetings: int,
) -> None:
    """F17: a stranger on the port is neither evidence nor life; a process that was dying is asked once more."""
    await nursery.start(Subject(bench.network).run)
    bench.channel.refusals = [refusal]
    bench.lifelines.reconnect(B, BOOT, SUBJECT)
    await trio.sleep(2.0)
    assert len(bench.channel.greeted) == greetings
    expected = PortState.OPEN if greetings == 2 else PortState.OTHER
    assert bench.last(Tried) == Tried(B, BOOT, expected)


async def nudged(bench: Bench, patience_s: float = 0.0, *, boot: int = BOOT) -> tuple[Response, float]:
    """Nudge B; returns what came of it, and after how long."""
    start_s, sent, found = trio.current_time(), *trio.open_memory_channel[tuple[Nudged, float]](9)
    original = bench.machine.found

    def note(finding: Finding, now_s: float) -> list[Effect]:
        if isinstance(finding, Nudged):
            sent.send_nowait((finding, trio.current_time()))
        return original(finding, now_s)

    bench.machine.found = note  # type: ignore[method-assign]
    bench.lifelines.nudge(B, boot, patience_s)
    finding, found_s = await found.receive()
    bench.machine.found = original  # type: ignore[method-assign]
    assert (finding.node, finding.boot, finding.patience_s) == (B, boot, patience_s)
    return finding.response, found_s - start_s


@pytest.mark.parametrize(
    ("line", "patience_s", "expected", "within_s"),
    [
        (([0, 0], math.inf), 0.0, Response.ACKNOWLEDGED, 0.15),
        (([0, 29, 29, 0], math.inf), 0.0, Response.ACKNOWLEDGED, 0.35),
        (([0, 29], math.inf), 0.0, Response.SILENT, 0.35),
        (([0, 29], math.inf), ANSWER_S, Response.SILENT, 0.35),
        (([0, 0], math.inf), ANSWER_S, Response.ACKNOWLEDGED, 1.05),
        (([0, 0], 0.01), ANSWER_S, Response.ANSWERED, 0.15),
        (([0, 0], 0.85), ANSWER_S, Response.ANSWERED, 0.95),
        (([70_000, 70_000], 0.05), ANSWER_S, Response.ANSWERED, 0.15),
    ],
)
async def test_nudges_tell_who_answered(
    autojump_clock: trio.testing.MockClock,
    bench: Bench,
    line: tuple[list[int | None], float],
    *,
    patience_s: float,
    expected: Response,
    within_s: float,
) -> None:
    """The process, within a second if it is waited for; else its kernel, within 0.3 s; else nobody."""
    bench.channel.lines[B] = FakeLine(*line)
    response, took_s = await nudged(bench, patience_s)
    assert response is expected
    assert took_s <= within_s < NUDGE_TIMEOUT_S


async def test_without_a_connection_the_port_is_asked(
    autojump_clock: trio.testing.MockClock, bench: Bench, nursery: trio.Nursery
) -> None:
    """Refused, silent, of another boot: not known, and never the silence of a host. Open: there is a kernel."""
    bench.channel.lines[B] = FakeLine([0])
    assert (await nudged(bench, boot=BOOT + 1))[0] is Response.UNKNOWN
    del bench.channel.lines[B]
    assert (await nudged(bench))[0] is Response.UNKNOWN
    bench.network.partition(["10.0.0.1"], [SUBJECT.host])
    response, took_s = await nudged(bench, ANSWER_S)
    assert response is Response.UNKNOWN
    assert took_s < NUDGE_TIMEOUT_S
    bench.network.heal()
    await nursery.start(Subject(bench.network).run)
    assert (await nudged(bench))[0] is Response.ACKNOWLEDGED


async def test_a_connection_that_was_made_meanwhile_is_an_answer(
    autojump_clock: trio.testing.MockClock, bench: Bench, nursery: trio.Nursery
) -> None:
    """Nobody greets without running."""
    await nursery.start(Subject(bench.network).run)
    nursery.start_soon(nudged, bench)
    await trio.sleep(0.01)
    bench.channel.up(B)
    await trio.sleep(0.5)
    assert bench.last(Nudged) == Nudged(B, BOOT, Response.ANSWERED)


async def test_where_acknowledgements_are_not_known_the_port_is_asked(
    autojump_clock: trio.testing.MockClock, bench: Bench, nursery: trio.Nursery
) -> None:
    """Not Linux, or a window that is full because the process does not read: an accepted connection speaks for it."""
    lines: list[list[int | None]] = [[None], [70_000, 70_029]]
    for counts in lines:
        bench.channel.lines[B] = FakeLine(counts)
        assert (await nudged(bench))[0] is Response.UNKNOWN
    bench.network.partition(["10.0.0.1"], [SUBJECT.host])
    assert (await nudged(bench))[0] is Response.SILENT
    bench.network.heal()
    await nursery.start(Subject(bench.network).run)
    assert (await nudged(bench))[0] is Response.ACKNOWLEDGED
    assert await nudged(bench, ANSWER_S) == (Response.ACKNOWLEDGED, pytest.approx(1.0, abs=0.15))


async def test_a_connection_that_ends_under_a_nudge_tells_nothing(
    autojump_clock: trio.testing.MockClock, bench: Bench, nursery: trio.Nursery
) -> None:
    """The nudge met a reset: that end is evidence of its own; what is left to ask is the port."""
    bench.channel.up(B, FakeLine([0, 29]))
    nursery.start_soon(nudged, bench)
    await trio.sleep(0.05)
    bench.channel.down(B, Ending.LOST)
    await trio.sleep(0.5)
    assert bench.last(Nudged) == Nudged(B, BOOT, Response.UNKNOWN)


async def test_refusals_of_wanted_connections_are_told(
    autojump_clock: trio.testing.MockClock, bench: Bench, nursery: trio.Nursery
) -> None:
    """Each of them, as long as the port is closed: whether the member lives is for the machine to know."""
    bench.lifelines.keep((B,))
    await trio.sleep(30.0)
    refusals = [finding for finding in bench.found if isinstance(finding, Refused)]
    assert refusals == bench.found
    assert 8 <= len(refusals) <= 16
    await nursery.start(Subject(bench.network).run)
    await trio.sleep(6.0)
    assert bench.found[-1] == LifelineUp(B, BOOT)


async def test_a_component_that_is_restarted_has_its_connections_again(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """The machine says once whom it wants; what it asks for while nothing runs is passed over without an error."""
    bench = Bench(FakeNetwork())
    await nursery.start(Subject(bench.network).run)
    bench.lifelines.keep((B,))
    for life in (1, 2, 3):
        async with trio.open_nursery() as running:
            bench.lifelines.start(running)
            # A dial under way must not keep the next life from dialling.
            bench.lifelines.reconnect(C, BOOT, SUBJECT)
            await trio.sleep(6.0)
            assert bench.channel.greeted.count(B) == life
            bench.lifelines.reconnect(C, BOOT, SUBJECT)
            running.cancel_scope.cancel()
        bench.channel.down(B, Ending.GOODBYE)
        known = len(bench.found)
        bench.lifelines.reconnect(B, BOOT, SUBJECT)
        bench.lifelines.nudge(B, BOOT)
        bench.lifelines.try_port(B, BOOT, SUBJECT)
        await trio.sleep(3.0)
        assert len(bench.found) == known
        bench.channel.lines.pop(C, None)


def test_nothing_happens_before_the_start() -> None:
    """Effects of the first turns come before the nursery does."""
    bench = Bench(FakeNetwork())
    for effect in (Nudge(B, BOOT), Reconnect(B, BOOT, SUBJECT)):
        if isinstance(effect, Nudge):
            bench.lifelines.nudge(*effect)
        else:
            bench.lifelines.reconnect(*effect)
    bench.lifelines.keep((B,))
    bench.lifelines.try_port(B, BOOT, SUBJECT)
    assert bench.found == []
    assert isinstance(bench.machine, Membership)
