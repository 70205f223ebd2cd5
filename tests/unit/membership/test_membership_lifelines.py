"""Dialling, looking at ports and nudging, on the fake network and virtual time, and once on loopback."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from membership_hands import BOOT, B, C
from membership_lines import LIMIT_S, SUBJECT, Bench, Subject, here

from frys_node.base.errors import NodeUnreachable
from frys_node.base.types import Address
from frys_node.channel.connection import Ending
from frys_node.secure.errors import HandshakeRefused
from frys_node.testing import lifelines as simulated
from frys_node.testing.network import FakeNetwork
from frys_node.testing.streams import FakeStream
from frys_node.transport.network import SystemNetwork
from membership import driver_lifelines
from membership.driver_lifelines import HOLD_S, race, try_port
from membership.effects import Nudge, Reconnect
from membership.findings import (
    LifelineDown,
    LifelineEnd,
    LifelineUp,
    PortState,
    Refused,
    Tried,
)
from membership.machine import Membership
from membership.patience import (
    RACE_LIMIT_S,
)


async def test_a_closed_port_refuses_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """ECONNREFUSED of the first attempt ends the race; the others are not waited for."""
    network = FakeNetwork()
    network.host(SUBJECT.host)
    start_s = trio.current_time()
    assert await race(here(network), SUBJECT) == (PortState.REFUSED, None)
    assert trio.current_time() - start_s < 0.05
    assert await try_port(here(network), SUBJECT) is PortState.REFUSED


async def test_two_lost_attempts_do_not_hide_a_refusal(autojump_clock: trio.testing.MockClock) -> None:
    """A reset that is lost is not sent again: the third attempt, at 0.2 s, is the one that hears it."""
    network = FakeNetwork()
    network.host(SUBJECT.host)
    host = network.host("10.0.0.1")
    original, attempts = host.connect, list[float]()

    async def connect(address: Address) -> FakeStream:
        attempts.append(trio.current_time())
        if len(attempts) <= 2:
            await trio.sleep_forever()
        return await original(address)

    host.connect = connect  # type: ignore[method-assign]
    start_s = trio.current_time()
    assert await try_port(here(network), SUBJECT) is PortState.REFUSED
    assert trio.current_time() - start_s == pytest.approx(0.2, abs=0.05)
    assert [at_s - start_s for at_s in attempts] == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize(
    "name", ["RACE_S", "HOLD_S", "ASK_PATIENCE_S", "NUDGE_LOOK_S", "REDIAL_FIRST_S", "REDIAL_MAX_S"]
)
def test_simulated_lifelines_keep_the_times_of_real_ones(name: str) -> None:
    """What the simulator shows holds for nodes only so: its lifelines have copies, for the driver is no pure module."""
    assert getattr(simulated, name) == getattr(driver_lifelines, name)


async def test_an_open_port_must_stay_open(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    """Accepted, and still there 30 ms later: a process, whether it runs or not."""
    network = FakeNetwork()
    await nursery.start(Subject(network).run)
    start_s = trio.current_time()
    assert await try_port(here(network), SUBJECT) is PortState.ACCEPTED
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
        assert await try_port(network, listener.address) is PortState.ACCEPTED
        await listener.aclose()
        assert await try_port(network, listener.address) is PortState.REFUSED


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
    assert bench.found[-2:] == [LifelineUp(B, BOOT), Tried(B, BOOT, PortState.GREETED)]


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
    expected = PortState.GREETED if greetings == 2 else PortState.OTHER
    assert bench.last(Tried) == Tried(B, BOOT, expected)


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
