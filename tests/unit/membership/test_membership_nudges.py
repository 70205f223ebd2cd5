"""Nudges: who answers, what an open port says and does not say, and how long is waited for it."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing
from membership_hands import BOOT, B
from membership_lines import SUBJECT, Bench, FakeLine, Subject

from frys_node.channel.connection import Ending
from frys_node.secure.errors import HandshakeRefused
from frys_node.testing.network import FakeNetwork
from membership.effects import Effect
from membership.findings import (
    Finding,
    LifelineUp,
    Nudged,
    PortState,
    Response,
    Tried,
)
from membership.patience import (
    TRIP_MAX_S,
    acknowledged_within_s,
    greeted_within_s,
    nudge_limit_s,
    nudge_timeout_s,
    race_limit_s,
)
from membership.watch import ANSWER_S


@pytest.fixture
def bench(nursery: trio.Nursery) -> Bench:
    """Lifelines that run."""
    made = Bench(FakeNetwork())
    made.network.host(SUBJECT.host)
    made.lifelines.start(nursery)
    return made


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
        (([0, 0], math.inf), ANSWER_S, Response.ACKNOWLEDGED, 1.15),
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
    assert took_s <= within_s < nudge_timeout_s(0.05)


async def test_without_a_connection_the_port_is_asked(
    autojump_clock: trio.testing.MockClock, bench: Bench, nursery: trio.Nursery
) -> None:
    """Refused, silent, of another boot: not known, and never the silence of a host. Mute: there is a kernel alone."""
    bench.channel.lines[B] = FakeLine([0])
    assert (await nudged(bench, boot=BOOT + 1))[0] is Response.UNKNOWN
    del bench.channel.lines[B]
    assert (await nudged(bench))[0] is Response.UNKNOWN
    bench.network.partition(["10.0.0.1"], [SUBJECT.host])
    response, took_s = await nudged(bench, ANSWER_S)
    assert response is Response.UNKNOWN
    assert took_s < nudge_timeout_s(0.05)
    bench.network.heal()
    await nursery.start(Subject(bench.network).run)
    bench.channel.greeting_s = math.inf
    assert (await nudged(bench))[0] is Response.ACKNOWLEDGED
    response, took_s = await nudged(bench, ANSWER_S)
    assert response is Response.ACKNOWLEDGED
    assert ANSWER_S <= took_s < nudge_timeout_s(0.05)


@pytest.mark.parametrize("patience_s", [0.0, ANSWER_S])
@pytest.mark.parametrize("refusal", [HandshakeRefused("not_tls", "hello from a web server"), HandshakeRefused("chain")])
async def test_a_stranger_on_the_port_is_no_kernel_of_the_member(
    autojump_clock: trio.testing.MockClock,
    bench: Bench,
    nursery: trio.Nursery,
    refusal: Exception,
    *,
    patience_s: float,
) -> None:
    """F17, the silence path: whoever answers and is not the member is neither evidence nor life."""
    await nursery.start(Subject(bench.network).run)
    bench.channel.refusals = [refusal] * 3
    assert (await nudged(bench, patience_s))[0] is Response.UNKNOWN
    bench.lifelines.try_port(B, BOOT, SUBJECT, 0.03)
    await trio.sleep(1.0)
    assert bench.last(Tried) == Tried(B, BOOT, PortState.OTHER)
    bench.lifelines.try_port(B, BOOT, SUBJECT)
    await trio.sleep(1.0)
    assert bench.last(Tried) == Tried(B, BOOT, PortState.ACCEPTED)


async def test_a_listener_that_closes_whoever_greets_is_a_stranger(
    autojump_clock: trio.testing.MockClock, bench: Bench, nursery: trio.Nursery
) -> None:
    """A kernel alone closes nothing; asked six times, because a dying process does so too before it refuses."""
    await nursery.start(Subject(bench.network).run)
    bench.channel.refusals = [HandshakeRefused("eof", "gone")] * 9
    assert (await nudged(bench))[0] is Response.UNKNOWN
    assert len(bench.channel.greeted) == 6


async def test_the_member_that_answers_a_look_speaks_for_its_life_only(
    autojump_clock: trio.testing.MockClock, bench: Bench, nursery: trio.Nursery
) -> None:
    """GREETED by the life that was asked for; of another one, which has taken the port, it is OTHER and UNKNOWN."""
    await nursery.start(Subject(bench.network).run)
    bench.lifelines.try_port(B, BOOT, SUBJECT, 0.03)
    await trio.sleep(0.5)
    assert bench.found[-2:] == [LifelineUp(B, BOOT), Tried(B, BOOT, PortState.GREETED)]
    bench.channel.down(B, Ending.GOODBYE)
    assert (await nudged(bench))[0] is Response.ANSWERED
    bench.channel.down(B, Ending.GOODBYE)
    bench.channel.boot = BOOT + 1
    bench.lifelines.try_port(B, BOOT, SUBJECT, 0.03)
    await trio.sleep(0.5)
    assert bench.found[-2:] == [LifelineUp(B, BOOT + 1), Tried(B, BOOT, PortState.OTHER)]
    bench.channel.down(B, Ending.GOODBYE)
    assert (await nudged(bench))[0] is Response.UNKNOWN


async def test_a_process_that_is_about_to_serve_is_waited_for(
    autojump_clock: trio.testing.MockClock, bench: Bench, nursery: trio.Nursery
) -> None:
    """It has its port and comes to its first connection a little later: that is no process that stands still."""
    await nursery.start(Subject(bench.network).run)
    bench.channel.greeting_s = 0.8
    bench.channel.boot = BOOT + 1
    assert (await nudged(bench, ANSWER_S))[0] is Response.UNKNOWN
    assert bench.last(LifelineUp) == LifelineUp(B, BOOT + 1)


async def test_waits_follow_the_round_trips(
    autojump_clock: trio.testing.MockClock, bench: Bench, nursery: trio.Nursery
) -> None:
    """400 ms away a kernel acknowledges, and a greeting takes, longer than anything does next door."""
    bench.machine.trip_s = lambda node: 0.4  # type: ignore[method-assign]
    bench.channel.lines[B] = FakeLine([0, 29, 29, 29, 29, 0])
    assert (await nudged(bench))[0] is Response.ACKNOWLEDGED
    bench.channel.lines[B] = FakeLine([0, 29])
    response, took_s = await nudged(bench)
    assert response is Response.SILENT
    assert took_s == pytest.approx(acknowledged_within_s(0.4), abs=0.15)
    bench.channel.lines[B] = FakeLine([0, 0], answers_after_s=1.3)
    assert (await nudged(bench, ANSWER_S))[0] is Response.ANSWERED
    bench.channel.lines.clear()
    await nursery.start(Subject(bench.network).run)
    bench.channel.greeting_s = 1.25
    bench.lifelines.keep((B,))
    await trio.sleep(2.0)
    assert bench.channel.is_connected(B)
    assert bench.channel.greeted == [B]


@pytest.mark.parametrize("trip_s", [0.0, 0.001, 0.3, TRIP_MAX_S])
def test_a_nudge_is_over_before_the_watch_gives_it_up(trip_s: float) -> None:
    """Each wait has room for those within it, at any distance."""
    race_s, greeted_s = race_limit_s(trip_s), greeted_within_s(ANSWER_S, trip_s)
    assert acknowledged_within_s(trip_s) < race_s
    assert race_s + greeted_s <= nudge_limit_s(trip_s) < nudge_timeout_s(trip_s)


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
    assert await nudged(bench, ANSWER_S) == (Response.ACKNOWLEDGED, pytest.approx(1.05, abs=0.15))


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
