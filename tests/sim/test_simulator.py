"""The simulator: determinism, verbs, faults, and that its checks have teeth."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence

import msgspec
import pytest

from frys_node.base.errors import CorruptData, UsageError
from frys_node.testing.disk import Failure, Tear
from frys_node.testing.faults import PROFILES, Crash, FaultProfile, FaultSchedule, Outage, Pause, Victim, minimise
from frys_node.testing.scenario import Replay, SimulationFailed
from frys_node.testing.simulator import Packet, SimEvent, SimHost, Simulator
from frys_node.testing.swarm_scenario import run_scenario


class Recorder:
    """A node that writes down what it is told, and ticks every second if asked to."""

    def __init__(self, host: SimHost, *, ticks: bool = False) -> None:
        self.host = host
        self.seen: list[tuple[float, str, object]] = []
        self.next_deadline_s = math.inf
        self._ticks = ticks

    def start(self, now_s: float) -> Sequence[Packet]:
        if self._ticks:
            self.next_deadline_s = now_s + 1.0
        return ()

    def receive(self, payload: bytes, source: str, now_s: float) -> Sequence[Packet]:
        self.seen.append((now_s, source, payload))
        return ()

    def advance(self, now_s: float) -> Sequence[Packet]:
        self.seen.append((now_s, "tick", b""))
        self.next_deadline_s += 1.0
        return ()

    def wake(self, token: object, now_s: float) -> Sequence[Packet]:
        self.seen.append((now_s, "wake", token))
        return token if isinstance(token, list) else ()


def _two(profile: FaultProfile | None = None, *, ticks: bool = False) -> tuple[Simulator, dict[str, Recorder]]:
    simulator = Simulator(1, profile or FaultProfile(jitter_s=0.0))
    nodes: dict[str, Recorder] = {}

    def make(host: SimHost) -> Recorder:
        nodes[host.name] = Recorder(host, ticks=ticks)
        return nodes[host.name]

    for name in ("a", "b"):
        simulator.add(name, make)
    return simulator, nodes


def test_mail_arrives_after_the_wire_delay_and_ties_keep_their_order() -> None:
    """Equal instants are settled by the sequence in which things were sent."""
    simulator, nodes = _two()
    simulator.send("a", [Packet("b", bytes([number])) for number in range(5)])
    simulator.run_until(1.0)
    assert nodes["b"].seen == [(0.0005, "a", bytes([number])) for number in range(5)]
    assert simulator.now_s == 1.0


def test_timers_fire_when_due_and_only_then() -> None:
    """Ten seconds hold ten ticks."""
    simulator, nodes = _two(ticks=True)
    simulator.run_until(10.0)
    assert [at_s for at_s, _, _ in nodes["a"].seen] == [float(second) for second in range(1, 11)]


def test_a_deadline_that_does_not_move_fails_the_run() -> None:
    """A machine that would spin a driver is a bug, found at once."""
    simulator, nodes = _two()
    simulator.run_until(0.5)
    nodes["a"].next_deadline_s = 0.0
    nodes["a"].advance = lambda now_s: ()  # type: ignore[method-assign]
    simulator.inject("a", "look at the deadline again")
    with pytest.raises(SimulationFailed, match="does not move"):
        simulator.run_until(1.0)


def test_a_partition_stops_mail_one_way_or_both_and_heals_by_number() -> None:
    """Overlapping partitions end one by one."""
    simulator, nodes = _two()
    first = simulator.partition(["a"], ["b"], one_way=True)
    second = simulator.partition(["a"], ["b"])
    simulator.send("a", [Packet("b", b"1")])
    simulator.send("b", [Packet("a", b"2")])
    simulator.heal(second)
    simulator.send("b", [Packet("a", b"3")])
    simulator.send("a", [Packet("b", b"4")])
    simulator.heal(first)
    simulator.send("a", [Packet("b", b"5")])
    simulator.run_until(1.0)
    assert [payload for _, _, payload in nodes["a"].seen] == [b"3"]
    assert [payload for _, _, payload in nodes["b"].seen] == [b"5"]
    assert simulator.counts["cut"] == 3


def test_a_paused_node_gets_everything_when_it_goes_on() -> None:
    """SIGSTOP holds timers and mail; SIGCONT delivers both."""
    simulator, nodes = _two(ticks=True)
    simulator.at(2.5, lambda: simulator.pause("b"))
    simulator.at(3.0, lambda: simulator.send("a", [Packet("b", b"held")]))
    simulator.at(6.5, lambda: simulator.resume("b"))
    simulator.run_until(7.0)
    seen = nodes["b"].seen
    assert [at_s for at_s, kind, _ in seen if kind == "tick"] == [1.0, 2.0, 6.5, 6.5, 6.5, 6.5, 7.0]
    assert (6.5, "a", b"held") in seen


def test_a_crash_loses_wakes_mail_and_unsynced_bytes_but_not_the_disk() -> None:
    """The next boot is a new node on the same disk, with another boot number and generator."""
    simulator, nodes = _two()
    host = simulator.host("b")
    host.disk.append("log", b"kept")
    host.disk.sync("log")
    host.disk.append("log", b"lost")
    host.schedule(2.0, "never")
    first_draw = host.rng.random()
    simulator.at(1.0, lambda: simulator.crash("b"))
    simulator.at(1.5, lambda: simulator.send("a", [Packet("b", b"to the dead")]))
    simulator.at(1.8, lambda: simulator.restart("b"))
    simulator.run_until(3.0)
    assert nodes["b"].seen == []
    assert host.disk.read("log") == b"kept"
    assert host.boot == 2
    assert host.rng.random() != first_draw
    assert simulator.counts["to_dead"] == 2
    assert simulator.is_up("b")


def test_a_torn_crash_is_counted_and_a_wiped_disk_is_empty() -> None:
    """The report can state how many of each were injected."""
    simulator, _ = _two()
    simulator.host("a").disk.append("log", b"x" * 1_000)
    simulator.crash("a", Tear.TORN)
    simulator.restart("a", wipe=True)
    assert simulator.host("a").disk.read("log") is None
    assert simulator.counts["crash_torn"] == simulator.counts["wipe"] == 1


def test_an_outage_takes_every_node_at_one_instant_and_each_comes_back_in_its_own_time() -> None:
    """Nobody is spared, whatever bounds other faults, and nobody is awake before the last one is down."""
    simulator, nodes = _two()
    outage = Outage(1.0, 3.0, (Victim("a", Tear.LOST, 2.0), Victim("b", Tear.TORN, 3.0)))
    FaultSchedule((outage,), 10.0).install(simulator)
    for at_s, up in ((0.9, (True, True)), (1.1, (False, False)), (3.1, (True, False)), (4.1, (True, True))):
        simulator.run_until(at_s)
        assert (simulator.is_up("a"), simulator.is_up("b")) == up
    assert (simulator.counts["outage"], simulator.counts["crash"]) == (1, 2)
    profile = FaultProfile(outages_per_min=5.0)
    drawn = FaultSchedule.generate(1, profile, list(nodes), start_s=0.0, end_s=60.0, down_max=1)
    assert drawn.faults
    assert all(isinstance(fault, Outage) and len(fault.victims) == len(nodes) for fault in drawn.faults)


def test_power_lost_inside_a_disk_call_ends_the_node_in_the_middle() -> None:
    """What came before the call stands, nothing behind it happens, and nothing of the input is sent."""

    class Writer(Recorder):
        def wake(self, token: object, now_s: float) -> Sequence[Packet]:
            for name in ("one", "two", "three"):
                self.host.disk.write(name, b"x")
            return [Packet("b", b"done")]

    simulator = Simulator(1, FaultProfile())
    host = simulator.add("a", Writer)
    simulator.add("b", Recorder)
    simulator.crash("a", in_calls=2)
    assert simulator.is_up("a")
    simulator.inject("a", "write")
    simulator.run_until(1.0)
    assert not simulator.is_up("a")
    assert list(host.disk.list("")) == ["one"]
    assert simulator.counts["crash_in_call"] == simulator.counts["crash"] == 1
    receiver = simulator.node("b")
    assert isinstance(receiver, Recorder)
    assert receiver.seen == []
    simulator.restart("a")
    simulator.inject("a", "write")
    simulator.run_until(2.0)
    assert list(host.disk.list("")) == ["one", "three", "two"]
    assert len(receiver.seen) == 1


def test_a_disk_error_that_escapes_stops_the_node_and_any_other_error_fails_the_run() -> None:
    """Fail-stop is what a process does; an uninjected storage error is a bug."""

    class Writer(Recorder):
        def wake(self, token: object, now_s: float) -> Sequence[Packet]:
            if token == "corrupt":
                raise CorruptData("found")
            self.host.disk.write("one", b"x")
            return ()

    simulator = Simulator(1, FaultProfile())
    simulator.add("a", Writer)
    simulator.fail_disk("a", Failure.FULL)
    simulator.inject("a", "write")
    simulator.run_until(1.0)
    assert not simulator.is_up("a")
    assert simulator.counts["storage_stop"] == simulator.counts["disk_error"] == 1
    simulator.restart("a")
    simulator.inject("a", "corrupt")
    with pytest.raises(SimulationFailed, match="CorruptData"):
        simulator.run_until(2.0)


def test_wall_clocks_step_and_drift_apart_from_simulated_time() -> None:
    """Only `unix_ms` sees it."""
    simulator = Simulator(3, FaultProfile(clock_drift=0.01))
    host = simulator.add("a", Recorder)
    before = host.unix_ms(100.0)
    simulator.step_clock("a", -3.0)
    assert host.unix_ms(100.0) == before - 3_000
    assert abs(host.unix_ms(200.0) - host.unix_ms(100.0) - 100_000) <= 1_001
    assert host.wall_drift != 0.0


def test_every_wire_fault_happens_and_is_counted() -> None:
    """2,000 packets meet each of them; what arrives is what the counts say."""
    profile = FaultProfile(
        name="all", loss=0.1, duplicate=0.1, reorder=0.1, late=0.05, corrupt=0.05, tail=0.05, jitter_s=0.0
    )
    simulator, nodes = _two(profile)
    for number in range(2_000):
        simulator.at(number / 100, lambda n=number: simulator.send("a", [Packet("b", n.to_bytes(4, "big"))]))
    simulator.run_until(100.0)
    counts, payloads = simulator.counts, [payload for _, _, payload in nodes["b"].seen]
    for fault in ("loss", "duplicate", "reorder", "late", "corrupt", "delay_tail"):
        assert counts[fault] > 30, fault
    assert len(payloads) == 2_000 - counts["loss"] + counts["duplicate"] + counts["late"]
    assert payloads != sorted(payloads)


def test_an_exception_in_a_node_fails_the_run_with_the_command_that_replays_it() -> None:
    """Whatever breaks, the person who sees it can run it again."""
    replay = Replay(scenario="swarm", nodes=2, seconds=60, seed=1, faults="chaos")
    simulator = Simulator(1, FaultProfile(), replay, keep_tail=True)

    class Faulty(Recorder):
        def receive(self, payload: bytes, source: str, now_s: float) -> Sequence[Packet]:
            raise KeyError("planted")

    for name in ("a", "b"):
        simulator.add(name, Faulty)
    simulator.send("a", [Packet("b", b"x")])
    with pytest.raises(SimulationFailed, match="KeyError") as caught:
        simulator.run_until(1.0)
    assert caught.value.replay_command() == (
        "frys-node sim --scenario swarm --nodes 2 --seconds 60 --seed 1 --faults chaos"
    )
    assert caught.value.replay_command() in str(caught.value)
    assert caught.value.tail


def test_checkers_see_each_input_with_what_it_caused() -> None:
    """A hook runs after the node, with the packets it sent."""
    simulator, _ = _two()
    events: list[SimEvent] = []
    simulator.on_event(events.append)
    simulator.inject("a", [Packet("b", b"x")])
    simulator.run_until(1.0)
    assert [(event.node, event.kind, event.payload) for event in events] == [("a", "wake", b""), ("b", "mail", b"x")]
    assert events[0].sent == [Packet("b", b"x")]


@pytest.mark.parametrize("name", list(PROFILES))
def test_each_profile_draws_the_same_subset_for_a_seed(name: str) -> None:
    """Swarm testing: seeds differ from one another, a seed never differs from itself."""
    profile = FaultProfile.named(name)
    draws = [profile.draw(seed) for seed in range(30)]
    assert draws == [profile.draw(seed) for seed in range(30)]
    if name != "none":
        assert len({tuple(draw.expand().items()) for draw in draws}) > 10
        assert any(draw.loss == 0.0 for draw in draws)
    assert profile.calm().loss == 0.0


def test_an_unknown_profile_lists_the_known_ones() -> None:
    """Bad input names the fix."""
    with pytest.raises(UsageError) as caught:
        FaultProfile.named("choas")
    assert "chaos" in caught.value.hint


def test_a_schedule_keeps_its_bounds_and_ends_whole() -> None:
    """Faults begin in the window, never too many nodes are down (but in outages), and afterwards all run."""
    names = [f"n{number}" for number in range(7)]
    profile = msgspec.structs.replace(FaultProfile.named("chaos"), outages_per_min=0.0)
    for seed in range(40):
        schedule = FaultSchedule.generate(seed, profile, names, start_s=5.0, end_s=65.0, down_max=2)
        assert all(5.0 <= fault.at_s < 65.0 for fault in schedule.faults)
        assert len(schedule.without(0).faults) == len(schedule.faults) - 1
    simulator = Simulator(3, profile)
    for name in names:
        simulator.add(name, Recorder)
    schedule = FaultSchedule.generate(3, profile, names, start_s=5.0, end_s=65.0, down_max=2)
    schedule.install(simulator)
    down_most = 0
    while simulator.now_s < 65.0:
        simulator.run_until(simulator.now_s + 0.1)
        down_most = max(down_most, sum(not simulator.is_up(name) or simulator.is_paused(name) for name in names))
    assert 1 <= down_most <= 2
    assert any(isinstance(fault, Crash) for fault in schedule.faults)
    simulator.run_until(200.0)
    assert all(simulator.is_up(name) and not simulator.is_paused(name) for name in names)
    assert not any(simulator.is_cut(a, b) for a in names for b in names)


def test_seeds_of_every_profile_pass_and_rare_states_are_reached() -> None:
    """A smoke batch of the engine's own scenario."""
    reached: set[str] = set()
    injected: set[str] = set()
    for profile in PROFILES:
        for seed in range(30 if profile == "disk" else 6):
            result = run_scenario(7, 40.0, seed, profile)
            assert result.passed, result.violations
            reached |= result.sometimes.keys()
            injected |= result.faults.keys()
    assert "recovered_a_counter" in reached
    assert {
        "loss",
        "duplicate",
        "reorder",
        "partition",
        "pause",
        "crash",
        "restart",
        "clock_step",
        "disk_error",
    } <= injected
    assert {"crash_in_call", "storage_stop", "crash_torn"} <= injected


def test_a_planted_bug_is_found() -> None:
    """Announcing before the fsync breaks the promise within a few seeds of the crash profile."""
    results = [run_scenario(5, 60.0, seed, "crashes", syncs_first=False) for seed in range(12)]
    failed = [result for result in results if not result.passed]
    assert failed
    assert "--faults crashes" in failed[0].violations[0]


def test_a_failing_schedule_is_reduced_to_the_fault_that_matters() -> None:
    """Of a long schedule with a planted bug one crash is left."""
    crash = Crash(20.05, 3.0, "n1", Tear.LOST, wipe=False)
    others = tuple(Pause(3.0 * number, 1.0, f"n{number}") for number in range(2, 5))
    long = FaultSchedule((*others, crash), 40.0)

    def fails(schedule: FaultSchedule) -> bool:
        return not run_scenario(5, 60.0, 3, "none", schedule=schedule, syncs_first=False).passed

    # Within one second the node surely raises its counter; a crash just behind that loses what was announced.
    tried = (_moved(long, crash, 20.0 + step / 20) for step in range(21))
    reduced = minimise(next(schedule for schedule in tried if fails(schedule)), fails)
    assert [type(fault) for fault in reduced.faults] == [Crash]


def _moved(schedule: FaultSchedule, crash: Crash, at_s: float) -> FaultSchedule:
    return FaultSchedule((*schedule.faults[:-1], msgspec.structs.replace(crash, at_s=at_s)), schedule.heals_s)


def test_a_seed_has_one_digest_in_every_process() -> None:
    """Two processes with different hash seeds agree; another seed differs."""
    script = (
        "import sys, msgspec; from frys_node.testing.swarm_scenario import run_scenario;"
        "print(msgspec.json.encode([run_scenario(20, 20.0, s, 'chaos').digest for s in (7, 8)]).decode())"
    )
    digests = []
    for hash_seed in ("0", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            timeout=120,
        )
        digests.append(json.loads(done.stdout))
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[0][1]
