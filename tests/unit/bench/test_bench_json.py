"""What `frys-node bench --json` prints is JSON, whatever was measured, and so is every scenario's shape."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from frys_node.base.errors import UsageError
from frys_node.bench import (
    balance,
    bus,
    cache,
    client,
    commit,
    flood,
    gossip_packet,
    handshake,
    idle,
    move,
    request,
    runner,
    snapshot,
    startup,
)
from frys_node.bench import membership_report as report
from frys_node.bench.figure import NO_PEER, Figure
from frys_node.bench.move import Stage
from frys_node.bench.move_load import Client, Sample, Span
from frys_node.bench.runner import SCENARIOS, Options, as_json
from frys_node.cli.bench import run as bench_verb
from frys_node.plugins.cache.policy import PolicyName

NONE, SOME = [0.0, 0.0], [1.0, 3.0]
"""Samples of something that took no time at all, and of something that did."""

KEYS = {"name", "unit", "ours", "peer", "peer_name", "ratio", "ratio_note", "budget", "samples"}


class _Ended(Client):
    """A client that has ended."""

    def __init__(self, name: str, group: str, samples: list[Sample]) -> None:
        super().__init__(name, group, 1.0)
        self.samples = samples

    def send(self, number: int) -> tuple[bool, int, int]:
        """Send nothing any more."""
        raise AssertionError(number)

    def close(self) -> None:
        """Close nothing."""
        self.samples = []


def _moved() -> list[Figure]:
    clients = [_Ended(kind, group, [Sample(1.0, 0.1, True)]) for kind in ("cache write",) for group in move.GROUPS]
    return move.figures_of(clients, Stage(Span(0.0, 1.0)), {"leave": Stage(Span(1.0, 2.0))}, 0, 80)


def _saved(values: list[float]) -> list[Figure]:
    names = ["create", "bytes", "again", "again_cpu", "again_bytes", "changed_bytes", "verify", "restore", "write"]
    names += ["hash", "calm_p50", "calm_p99", "busy_p50", "busy_p99"]
    return snapshot.figures_of(dict.fromkeys(names, values))


def _flooded() -> list[Figure]:
    one = flood.Round()
    one.before, one.aside, one.beside = NONE, SOME, SOME
    return flood.figures_of([one], 0.0, 0.0)


def _shaken() -> list[Figure]:
    taken = {"ed25519": SOME, "ml-dsa-65": SOME, "stdlib": NONE}
    figures = handshake.figures_of(taken, dict.fromkeys(taken, 0), SOME, NONE)
    return figures + handshake.join_figures("ed25519", SOME, NONE, SOME)


def _called() -> list[Figure]:
    ways = (client.STRAIGHT, client.PLAIN, client.ENTRY)
    return client.figures_of("get", {way: [client.Spell(2, 1.0, NONE), client.Spell(2, 1.0, SOME)] for way in ways})


def _cached() -> list[Figure]:
    figures = cache.ratio_figures([dict.fromkeys(PolicyName, 0.0)])
    return figures + cache.rate_figures("set P=1", [(1.0, 2.0)], [(0.0, 0.0)], "")


SHAPES: dict[str, Callable[[], list[Figure]]] = {
    "startup": lambda: startup.figures_of(SOME, NONE, SOME, NONE),
    "idle": lambda: idle.figures_of((SOME, SOME), (SOME, SOME), (SOME, NONE)),
    "bus": lambda: bus.figures_of(SOME, NONE, SOME),
    "request": lambda: request.figures_of(SOME, NONE),
    "handshake": _shaken,
    "gossip-packet": lambda: gossip_packet.figures_of(SOME, NONE, NONE, 0, 0),
    "cache": _cached,
    "balance": lambda: balance.figures_of(1, {("held", "max/mean", ""): SOME}, {("held", "max/mean", ""): NONE}),
    "client": _called,
    "commit": lambda: commit.figures_of(SOME, NONE),
    "move": _moved,
    "snapshot": lambda: _saved(NONE),
    "flood": _flooded,
}


def strictly(text: str) -> Any:
    """Parse JSON as the standard has it: no Infinity, no NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "membership"])
def test_every_scenario_prints_json_of_one_shape_even_beside_a_peer_that_took_nothing(name: str) -> None:
    """Each figure has the same fields; a ratio that there is not is null, and a word says why."""
    body = strictly(as_json({"cpu": "x"}, 5, {name: SHAPES[name]()}, {}))
    assert body["failures"] == {}
    assert body["scenarios"][name]
    for figure in body["scenarios"][name]:
        assert set(figure) == KEYS
        assert (figure["ratio"] is None) == bool(figure["ratio_note"])
        assert (figure["peer"] is None) == (figure["peer_name"] == NO_PEER)


def test_the_membership_scenario_prints_json_when_nothing_happened_in_time() -> None:
    """What was never seen is later than everything, and null in the JSON."""
    results = report.Results(machine={"cpu": "x"})
    results.add("kill-5", {"ours": {"dead": None}, "serf": {"dead": 1.0}}, 0.1)
    rows = report.rows(results, "kill-5", [report.Metric("dead", "dead", "s", 1.0, 1.0)])
    (row,) = strictly(report.as_json(results, rows))["rows"]
    assert row["ours"]["p50"] is None
    assert row["ratio"] is None


def test_a_figure_without_a_peer_says_so_in_the_table_and_in_the_json() -> None:
    """There are three reasons for no ratio, and each has its words; a real ratio has none."""
    alone = Figure("time", "s", 1.0)
    assert (alone.ratio, alone.ratio_note) == (None, "no peer")
    assert alone.as_row()[3:6] == ("-", NO_PEER, "-")
    nothing = Figure("failed", "requests", 0.0, "before", 0.0)
    assert (nothing.ratio, nothing.ratio_note) == (None, "the peer's is 0")
    endless = Figure("wait", "ms", math.inf, "before", 1.0, samples=[math.nan])
    assert (endless.ratio_note, endless.as_dict()["ours"], endless.as_dict()["samples"]) == ("not finite", None, [None])
    assert Figure("p99", "ms", 3.0, "before", 2.0).ratio == 1.5


def test_a_scenario_that_fails_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown name is refused before anything runs; a failure is told in the JSON and by the exit code."""
    with pytest.raises(UsageError, match="no scenario 'nope'"):
        runner.main(["bus", "nope"], Options(1), json_output=True)

    def broken(rounds: int) -> list[Figure]:
        raise UsageError(f"cannot, not even for {rounds} round")

    monkeypatch.setattr(commit, "run", broken)
    monkeypatch.setattr(bus, "LOOPS", 10)
    monkeypatch.setattr(bus, "TASKS", 10)
    assert runner.main(["commit", "bus"], Options(1), json_output=True) == 1
    printed = capsys.readouterr()
    body = strictly(printed.out)
    assert body["failures"] == {"commit": "cannot, not even for 1 round"}
    assert list(body["scenarios"]) == ["bus"]
    assert "commit failed" in printed.err


@pytest.mark.parametrize(
    ("names", "held", "message"),
    [(["bus"], 5, "about move"), (["move"], 0, "not between"), (["bus", "move"], 10**9, "not between")],
)
def test_what_the_leaver_shall_hold_is_asked_of_move_only_and_within_bounds(
    names: list[str], held: int, message: str
) -> None:
    """Refused before anything is started; the message says what is wrong."""
    arguments = argparse.Namespace(names=names, held=held, rounds=None, full=False, json=False)
    with pytest.raises(UsageError, match=message):
        bench_verb(arguments)
