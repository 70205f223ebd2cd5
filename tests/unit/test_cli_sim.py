"""`frys-node sim`: results, batches that go on, and failures that can be replayed."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from frys_node.cli.main import main
from frys_node.cli.sim_report import batch_report, batch_text
from frys_node.cli.sim_suite import _state_of
from frys_node.testing import catalogue, swarm_scenario
from frys_node.testing.catalogue import PLAN, SCENARIOS
from frys_node.testing.provenance import code_digest
from frys_node.testing.scenario import ScenarioResult, Target

SWARM = ["sim", "--scenario", "swarm", "--nodes", "5", "--seconds", "10"]


def _out(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_one_seed_prints_its_digest_and_fault_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """The same seed prints the same digest, another one another."""
    digests = []
    for seed in ("7", "7", "8"):
        assert main([*SWARM, "--seed", seed, "--json"]) == 0
        result = _out(capsys)
        assert isinstance(result["faults"], dict)
        assert result["events"]
        assert result["code"] == code_digest("frys_node.testing.swarm_scenario")
        digests.append(result["digest"])
    assert digests[0] == digests[1] != digests[2]


def test_people_get_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json the verdict is readable."""
    assert main([*SWARM, "--faults", "none"]) == 0
    out = capsys.readouterr().out
    assert "verdict" in out
    assert "passed" in out


def test_a_batch_goes_on_where_it_stopped(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Seeds in the state file are not run again, and the totals cover all of them."""
    state = tmp_path / "state.json"
    arguments = [*SWARM, "--json", "--state", str(state)]
    assert main([*arguments, "--seeds", "3"]) == 0
    first = json.loads(state.read_text())
    capsys.readouterr()
    assert main([*arguments, "--seeds", "5"]) == 0
    report = _out(capsys)
    assert report["passed"] == report["seeds"] == 5
    second = json.loads(state.read_text())
    assert {seed: second["done"][seed] for seed in first["done"]} == first["done"]
    assert report["code"] == code_digest("frys_node.testing.swarm_scenario")
    state.write_text(json.dumps(second | {"codes": ["0" * 32]}))
    assert main([*arguments, "--seeds", "5"]) == 0
    assert _out(capsys)["code"] == f"{'0' * 32}, {report['code']}"
    assert main([*arguments, "--seeds", "5", "--faults", "lossy"]) == 2
    assert "another batch" in capsys.readouterr().err


def test_several_processes_find_what_one_finds(capsys: pytest.CaptureFixture[str]) -> None:
    """The totals of a batch do not depend on how it was shared."""
    reports = []
    for jobs in ("1", "2"):
        assert main([*SWARM, "--seeds", "6", "--jobs", jobs, "--json"]) == 0
        report = _out(capsys)
        del report["wall_s"]
        reports.append(report)
    assert reports[0] == reports[1]


def test_a_violation_is_exit_1_with_the_replay_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The planted bug is reported for its seed, singly, in a batch, and again after a resume."""
    real = swarm_scenario.run_scenario

    def buggy(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
        if seed == 3:
            raise ZeroDivisionError("a bug of the scenario itself")
        return real(nodes, seconds, seed, faults, syncs_first=False)

    monkeypatch.setattr(swarm_scenario, "run_scenario", buggy)
    state = tmp_path / "state.json"
    arguments = ["sim", "--scenario", "swarm", "--faults", "crashes", "--seeds", "12", "--state", str(state), "--json"]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert 3 in report["failed_seeds"]
    assert len(report["failed_seeds"]) > 1
    for seed in report["failed_seeds"]:
        assert f"frys-node sim --scenario swarm --nodes 7 --seconds 60 --seed {seed} --faults crashes" in captured.err
    assert main(arguments) == 1
    assert json.loads(capsys.readouterr().out)["failed_seeds"] == report["failed_seeds"]
    assert main(["sim", "--scenario", "swarm", "--seed", "3"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--faults", "choas"],
        ["--nodes", "0"],
        ["--seconds", "-1"],
        ["--seeds", "0"],
        ["--jobs", "0"],
        ["--scenario", "nope"],
    ],
)
def test_wrong_options_are_usage_errors(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """Exit code 2 and a message that names the fix."""
    assert main(["sim", *arguments]) == 2
    assert capsys.readouterr().err


def test_a_state_file_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Somebody else's file is never overwritten."""
    path = tmp_path / "notes.txt"
    path.write_text("my notes")
    assert main([*SWARM, "--state", str(path)]) == 2
    assert path.read_text() == "my notes"
    assert "another file" in capsys.readouterr().err


def test_the_list_names_every_scenario_with_its_claim(capsys: pytest.CaptureFixture[str]) -> None:
    """For people and as JSON."""
    assert main(["sim", "--list"]) == 0
    text = capsys.readouterr().out
    assert main(["sim", "--list", "--json"]) == 0
    claims = _out(capsys)
    assert set(claims) == set(catalogue.SCENARIOS)
    assert all(name in text and str(claim) in text for name, claim in claims.items())


def test_a_batch_whose_budget_is_too_small_for_one_seed_fails_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was shown, so nothing has passed."""
    assert main([*SWARM, "--seeds", "3", "--budget", "1e-9", "--json"]) == 1
    assert _out(capsys)["missed"] == ["no seed ran: the budget is too small for one"]


@pytest.mark.parametrize(("limit", "code"), [(1e9, 0), (-1.0, 1)])
def test_all_runs_the_plan_and_fails_if_a_target_is_missed(
    limit: float, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line for each batch, totals over all of them, and the targets decide."""
    join = msgspec.structs.replace(catalogue.SCENARIOS["join"], targets=(Target("join_s", "max", limit),))
    monkeypatch.setitem(catalogue.SCENARIOS, "join", join)
    plan = (catalogue.Entry("join", 2, 60.0, nodes=3, seconds=1.0), catalogue.Entry("swarm", 2, 60.0, seconds=5.0))
    monkeypatch.setattr(catalogue, "PLAN", plan)
    assert main(["sim", "--all", "--json"]) == code
    report = _out(capsys)
    assert report["seeds"] == 4
    assert bool(report["failures"]) is bool(code)
    assert main(["sim", "--all"]) == code
    text = capsys.readouterr().out
    assert "2 seeds" in text
    assert "node_hours" in text
    assert ("MISSED" in text) is bool(code)


def test_everything_keeps_a_state_file_for_each_batch_and_never_counts_what_other_code_has_run(tmp_path: Path) -> None:
    """Files are named by scenario, size and the code that the scenario can load."""
    found = {_state_of(tmp_path, entry) for entry in PLAN}
    assert len(found) == len(PLAN)
    codes = {path.stem.rpartition("-")[2] for path in found if path.name.startswith("membership-")}
    assert len(codes) == 1
    assert codes.isdisjoint(path.stem.rpartition("-")[2] for path in found if path.name.startswith("replication-"))


def test_the_promises_of_replication_are_counted_and_zeros_are_printed() -> None:
    """By the letter that a violation begins with; a promise that was kept is told as well."""
    kept = {"seed": 1, "violations": [], "sometimes": {}, "figures": {}, "nodes": 7, "seconds": 20.0, "events": 9}
    kept |= {"wall_s": 1.0, "faults": {}}
    lost = kept | {"seed": 2, "violations": ["(a) lost b'k'", "(a) scan 3 misses b'k'", "(f) two records with key 1.2"]}
    report = batch_report("replication", SCENARIOS["replication"], "chaos", [kept, lost], 2)
    assert [report["broken"][name] for name in ("acknowledged writes lost", "forked epochs", "double moves")] == [
        2,
        1,
        0,
    ]
    clean = batch_report("replication", SCENARIOS["replication"], "chaos", [kept], 1)
    assert set(clean["broken"].values()) == {0}
    assert "deletes resurrected 0, " in batch_text(clean)
    assert batch_report("swarm", SCENARIOS["swarm"], "chaos", [kept], 1)["broken"] == {}
