"""Statistics, table, plan and the results file of the membership benchmark."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import pytest

from frys_node.base.errors import UsageError
from frys_node.bench import membership
from frys_node.bench import membership_report as report
from frys_node.bench import membership_rig as rig
from frys_node.bench.membership_plan import SCENARIOS
from frys_node.bench.membership_report import Metric, Results, Spread
from frys_node.testing import provenance

VERSIONS = {"ours": "frys-node 0.1.0 abc", "serf": "serf 0.9.4"}
DEAD_ALL = Metric("all_dead_s", "dead at all survivors", "s", 0.7, 1.2)


def results_of(ours: list[float | None], serf: list[float | None]) -> Results:
    """Results of one scenario."""
    results = Results(versions=VERSIONS, machine={"cpu": "x"})
    for mine, theirs in zip(ours, serf, strict=True):
        results.add("kill-5", {"ours": {"all_dead_s": mine}, "serf": {"all_dead_s": theirs}}, 1.23)
    return results


def test_the_tail_is_the_maximum_until_there_are_a_hundred_rounds() -> None:
    """With few rounds nothing hides behind a percentile; with many it is the nearest rank."""
    few = Spread.of([1.0, 2.0, 3.0, 10.0])
    assert few == Spread(2.5, 10.0, 4, 4)
    assert few.tail_name == "max"
    many = Spread.of([float(value) for value in range(1, 201)])
    assert many == Spread(100.5, 198.0, 200, 200)
    assert many.tail_name == "p99"
    assert Spread.of([]) is None


def test_what_never_happened_is_later_than_everything() -> None:
    """A missed detection spoils the tail, and the median when it is no exception."""
    assert Spread.of([0.5, None, 0.6]) == Spread(0.6, math.inf, 2, 3)
    seldom = Spread.of([None, None, 0.6])
    assert seldom is not None
    assert math.isinf(seldom.p50)


def test_a_row_compares_medians_and_says_whether_the_goal_is_held() -> None:
    """The ratio is ours over serf's; the goal takes the median and the tail."""
    (row,) = report.rows(results_of([0.5, 0.6, 1.0], [6.0, 6.0, 9.0]), "kill-5", [DEAD_ALL, Metric("gone", "x", "s")])
    assert row.ratio == pytest.approx(0.1)
    assert row.held is True
    assert row.cells()[:9] == ("kill-5", "dead at all survivors", "s", "0.60", "1", "3", "6", "9", "3")
    assert row.cells()[9:] == ("0.10", "p50 <= 0.7, p99 <= 1.2", "yes", "1.2-1.2")
    (late,) = report.rows(results_of([0.5, 0.6, None], [6.0, None, None]), "kill-5", [DEAD_ALL])
    assert late.held is False
    assert late.ratio is None
    assert late.cells()[3:9] == ("0.60", "never", "2/3", "never", "never", "1/3")
    assert late.as_dict()["ours"] == {"p50": 0.6, "max": None, "seen": 2, "rounds": 3}


def test_one_side_alone_makes_a_table_and_json() -> None:
    """Without a peer there is no ratio; the JSON form has no infinities."""
    results = Results(versions=VERSIONS)
    results.add("kill-5", {"ours": {"all_dead_s": None}}, 0.0)
    (row,) = report.rows(results, "kill-5", [DEAD_ALL])
    assert row.cells()[3:10] == ("-", "-", "0/1", "-", "-", "", "")
    (never,) = report.rows(results_of([None], [6.0]), "kill-5", [DEAD_ALL])
    assert never.ratio is None
    body = json.loads(report.as_json(results, [row]))
    assert body["rows"][0]["ours"]["p50"] is None
    assert body["rows"][0]["serf"] is None


def test_a_run_goes_on_from_its_file(tmp_path: Path) -> None:
    """What was written is read again, round by round; a file that is not there is no error."""
    path = tmp_path / "results.json"
    assert report.read(path, VERSIONS) is None
    report.write(path, results_of([0.5, None], [6.0, 7.0]))
    again = report.read(path, VERSIONS)
    assert again is not None
    assert again.count("kill-5") == 2
    assert again.samples("kill-5", "ours") == [{"all_dead_s": 0.5}, {"all_dead_s": None}]
    assert again.load_span("kill-5") == (1.23, 1.23)
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("text", ["", "{", '{"format": 9}', '{"rounds": 3}'])
def test_a_file_that_holds_something_else_is_left_alone(tmp_path: Path, text: str) -> None:
    """Damaged or foreign files are refused by name and not overwritten."""
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(report.ResultsDiffer, match=r"results\.json"):
        report.read(path, VERSIONS)
    assert path.read_text(encoding="utf-8") == text


def test_figures_of_two_versions_are_never_mixed(tmp_path: Path) -> None:
    """A file of another commit is refused, with both named."""
    path = tmp_path / "results.json"
    report.write(path, results_of([0.5], [6.0]))
    with pytest.raises(report.ResultsDiffer, match=r"0\.1\.0 abc.*0\.1\.0 def"):
        report.read(path, {**VERSIONS, "ours": "frys-node 0.1.0 def"})


def test_two_edited_states_of_one_commit_are_two_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git calls both dirty; what a node and the measurement load tells them apart."""
    digests = {module: module[-1] * 32 for module in rig.CODE}
    monkeypatch.setattr(rig, "code_digest", digests.__getitem__)
    before = rig.versions(["ours"])
    path = tmp_path / "results.json"
    report.write(path, Results(versions=before))
    assert report.read(path, rig.versions(["ours"])) is not None
    for module in rig.CODE:
        with monkeypatch.context() as edited:
            edited.setitem(digests, module, "0" * 32)
            with pytest.raises(report.ResultsDiffer):
                report.read(path, rig.versions(["ours"]))


def test_what_names_the_code_reaches_all_of_a_node_and_of_the_measurement() -> None:
    """The detector, its drivers, the channel, the composition root, the rounds and the rig."""
    reached = {name for module in rig.CODE for name in provenance._reached(module)}
    assert reached >= {
        *("membership.machine", "membership.driver", "membership.driver_lifelines"),
        *("frys_node.channel.driver", "frys_node.node", "frys_node.bench.membership_rounds"),
        "frys_node.bench.membership_rig",
    }


def test_scenarios_are_chosen_by_how_they_begin() -> None:
    """`kill` means all kills; a word that names none is refused with those that exist."""
    assert {scenario.key.partition("-")[0] for scenario in membership.chosen("kill,leave-4")} == {"kill", "leave"}
    assert membership.chosen(None) == list(SCENARIOS)
    with pytest.raises(UsageError, match="no scenario 'klil'"):
        membership.chosen("kill,klil")


def test_how_many_rounds_a_run_wants() -> None:
    """A default run leaves long scenarios out; naming one plays it; a number overrides; --full plays all."""
    by_key = {scenario.key: scenario for scenario in SCENARIOS}
    short, long = by_key["kill-5"], by_key["flap-20"]

    def wanted(
        scenario: membership.Scenario, *, full: bool = False, named: bool = False, rounds: int | None = None
    ) -> int:
        return membership.wanted_rounds(scenario, full=full, named=named, rounds=rounds)

    assert (wanted(short), wanted(long)) == (20, 0)
    assert (wanted(short, full=True), wanted(long, full=True)) == (40, 3)
    assert (wanted(short, named=True), wanted(long, named=True)) == (20, 1)
    assert (wanted(short, rounds=2), wanted(long, rounds=2), wanted(long, rounds=2, named=True)) == (2, 0, 2)


def test_the_default_run_is_planned_to_fit() -> None:
    """Names are unique, every scenario reads something, and the rounds leave time to start the clusters."""
    assert len({scenario.key for scenario in SCENARIOS}) == len(SCENARIOS)
    assert all(scenario.metrics and scenario.rounds_full for scenario in SCENARIOS)
    assert sum(scenario.rounds * scenario.seconds for scenario in SCENARIOS) <= membership.DEFAULT_S_MAX - 80


def test_a_full_run_wants_a_file() -> None:
    """Hours of figures are not left to a terminal's scroll-back."""
    options = argparse.Namespace(only=None, full=True, out=None, side="ours")
    with pytest.raises(UsageError, match="--full takes hours"):
        membership.main(options)
