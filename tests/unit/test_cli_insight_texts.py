"""What the verbs about members print for people, from the bodies that HTTP answers."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from frys_node.base.errors import NotReady
from frys_node.cli import members, reachability, rtt
from frys_node.cli.why import CONDITIONS, EVIDENCE, VOUCHERS, explain, phi_text, span
from frys_node.kernel.services.members import Condition
from membership.messages import Evidence
from membership.telling import HEARSAY, REFUSED, UNPROVEN
from membership.testimony import VouchKind


def who(name: str) -> dict[str, str]:
    """A member."""
    return {"id": f"{name}-id", "name": name}


def direction(a: str, b: str, srtt_s: float | None = None, error: str = "") -> dict[str, Any]:
    """One way of a pair."""
    return {
        "a": who(a),
        "b": who(b),
        "srtt_s": srtt_s,
        "rttvar_s": None if srtt_s is None else srtt_s / 2,
        "samples": 0 if srtt_s is None else 7,
        "status": None if error else "alive",
        "condition": None if error else "ok",
        "error": {"code": "x", "message": error} if error else None,
    }


def member(name: str, status: str = "alive", **others: Any) -> dict[str, Any]:
    """A row of ``GET /v1/members``."""
    return {
        "name": name,
        "id": f"{name}-id",
        "status": status,
        "condition": "ok",
        "address": "10.0.0.1:7946",
        "http": "",
        "incarnation": 0,
        "boot": 1,
        "phi": None,
        "rtt_s": None,
        "tags": {},
        "changed_unix_ns": 0,
    } | others


def row(
    name: str, *, error: str = "", cut_off: tuple[str, ...] = (), cannot_send: tuple[str, ...] = (), **deviations: str
) -> dict[str, Any]:
    """What an observer says."""
    return {
        "id": f"{name}-id",
        "name": name,
        "error": {"code": "x", "message": error} if error else None,
        "deviations": [who(other) | {"status": status} for other, status in deviations.items()],
        "cut_off": [who(other) for other in cut_off],
        "cannot_send": [who(other) for other in cannot_send],
    }


def test_round_trips_are_told_each_way() -> None:
    """Measured, not measured and not told are three things; one way estimates the other."""
    body = {"directions": [direction("a", "b", 0.0012), direction("b", "a", 0.001)], "estimate_s": 0.0011}
    assert rtt.text(body).splitlines() == [
        "FROM  TO  RTT_MS  VAR_MS  SAMPLES  STATUS  CONDITION",
        "a     b     1.20    0.60        7  alive   ok",
        "b     a     1.00    0.50        7  alive   ok",
    ]
    body = {"directions": [direction("a", "b", 0.0012), direction("b", "a")], "estimate_s": 0.0012}
    assert rtt.text(body).splitlines()[2:] == [
        "b     a        -       -        -  alive   ok         not measured",
        "estimate 1.20 ms, by the way that is measured",
    ]
    body = {"directions": [direction("a", "b"), direction("b", "a", error="no answer within 2 s")], "estimate_s": None}
    lines = rtt.text(body).splitlines()
    assert lines[2].endswith("no answer within 2 s")
    assert lines[3] == "not measured either way, and nothing to estimate it from"


def test_the_matrix_shows_who_sees_whom() -> None:
    """A row per observer: the dead are only looked at, who is silent has dashes, a cut path an exclamation mark."""
    body = {
        "observer": who("ann"),
        "members": [member("ann"), member("bob"), member("cid"), member("dee", "dead")],
        "rows": [
            row("ann", cannot_send=("bob",)),
            row("bob", cut_off=("cid",), dee="alive"),
            row("cid", error="no answer within 2 s"),
        ],
        "problems": [
            {"kind": "dead", "member": who("dee"), "observer": None, "detail": "every path to it is gone"},
            {"kind": "seen_otherwise", "member": who("dee"), "observer": who("bob"), "detail": "as alive"},
            {"kind": "isolated", "member": who("bob"), "observer": who("bob"), "detail": "hears nobody"},
            {"kind": "no_answer", "member": who("cid"), "observer": who("ann"), "detail": "no answer within 2 s"},
            {"kind": "cut", "member": who("cid"), "observer": who("bob"), "detail": "answers to helpers"},
            {"kind": "cannot_send", "member": who("bob"), "observer": who("ann"), "detail": "its own system refuses"},
        ],
        "is_whole": False,
    }
    assert reachability.text(body).splitlines() == [
        "2 of 3 live members answered ann; dead: 1",
        "",
        "       1 2 3 4",
        "1 ann  . ! . x",
        "2 bob  . . ! .",
        "3 cid  - - - -",
        "4 dee",
        reachability.LEGEND,
        "",
        "dee is dead; if it is not coming back: frys-node node remove dee (its copies are made anew)",
        "bob sees dee as alive",
        "bob is isolated: it hears nobody",
        "cid did not answer ann: no answer within 2 s",
        "bob gets no answer from cid directly, which answers all the same",
        "ann cannot send to bob: its own system refuses; look at addresses, routes and filters",
    ]


def test_a_large_cluster_has_no_matrix_and_a_bounded_list() -> None:
    """Above `MATRIX_MAX` members only what is wrong is told, and not more of it than fits."""
    names = [f"n{i}" for i in range(reachability.MATRIX_MAX + 1)]
    problem = {"kind": "seen_otherwise", "member": who("n1"), "observer": who("n2"), "detail": "as suspect"}
    body = {
        "observer": who("n1"),
        "members": [member(name) for name in names],
        "rows": [row(name) for name in names],
        "problems": [problem] * (reachability.PROBLEMS_MAX + 3),
        "is_whole": False,
    }
    lines = reachability.text(body).splitlines()
    assert len(lines) == 2 + reachability.PROBLEMS_MAX + 1
    assert lines[-1] == "... and 3 more; --json has them all"


def test_members_show_phi_round_trip_condition_and_tags() -> None:
    """What is not known is a dash; the dead have no condition."""
    body = {"members": [member("a", phi=0.5, rtt_s=0.0012, tags={"z": "1", "b": "2"}), member("b", "dead", phi=1234.5)]}
    body["members"] += [member("c", "suspect"), member("d", "suspect", condition="stalled")]
    assert [line.split() for line in members.text(body).splitlines()] == [
        ["NAME", "STATUS", "CONDITION", "ADDRESS", "HTTP", "INCARNATION", "PHI", "RTT_MS", "TAGS"],
        ["a", "alive", "ok", "10.0.0.1:7946", "-", "0", "0.50", "1.20", "b=2", "z=1"],
        ["b", "dead", "-", "10.0.0.1:7946", "-", "0", "1234", "-", "-"],
        ["c", "suspect", "-", "10.0.0.1:7946", "-", "0", "-", "-", "-"],
        ["d", "suspect", "stalled", "10.0.0.1:7946", "-", "0", "-", "-", "-"],
    ]


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.5, "0.50 s"), (12, "12 s"), (300, "5 min"), (10_000, "3 h"), (200_000, "2 d")]
)
def test_spans_are_told_in_their_unit(seconds: float, told: str) -> None:
    """Two digits where they matter, none where they do not."""
    assert span(seconds) == told


def test_phi_is_exact_only_near_its_thresholds() -> None:
    """A member that is long gone has a phi of thousands."""
    assert (phi_text(7.954), phi_text(18_327.98)) == ("7.95", "18328")


def test_why_tells_what_it_does_not_know_as_it_is() -> None:
    """A turn of a later version, one of another day, and an accuser that is forgotten."""
    now_ns = 1_767_225_600_000_000_000
    body = {
        "member": member("bob", boot=5, changed_unix_ns=now_ns),
        "unix_ns": now_ns,
        "observer": who("ann") | {"health_score": 0, "health_score_max": 8, "is_isolated": False, "is_quiet": False},
        "suspicion": None,
        "vouchers": [],
        "edges": [],
        "is_flapping": True,
        "rtt": {"srtt_s": None, "rttvar_s": None, "samples": 0},
        "story": [
            {"unix_ns": now_ns - 1, "what": "new word", "who": None, "evidence": None, "detail": "of a later version"},
            {
                "unix_ns": now_ns,
                "what": "suspected",
                "who": {"id": "f00", "name": ""},
                "evidence": "silence",
                "detail": "",
            },
        ],
    }
    lines = explain(body, dt.UTC).splitlines()
    assert "  flapping   its changes are not announced until it has come to rest" in lines
    assert lines[-2:] == [
        "  2025-12-31 23:59:59.999  new word: of a later version",
        "  00:00:00.000  f00 suspects it: silence: it does not answer, which may be a pause",
    ]


def test_why_has_words_for_all_that_members_can_say() -> None:
    """Each evidence, each kind of voucher and each condition of the protocol."""
    assert set(EVIDENCE) == {evidence.name.lower() for evidence in Evidence} | {REFUSED, UNPROVEN, HEARSAY}
    assert set(VOUCHERS) == {kind.name.lower() for kind in VouchKind}
    assert set(CONDITIONS) == {condition.value for condition in Condition}


class _Node:
    """A node that answers one path."""

    def __init__(self, nodes: list[dict[str, str]] | None) -> None:
        self.nodes = nodes

    def call(self, _method: str, path: str) -> dict[str, Any]:
        assert path == "/v1/placement"
        if self.nodes is None:
            raise NotReady("no record yet")
        return {"nodes": self.nodes}


def test_members_name_who_is_on_the_ring_and_was_never_heard_of() -> None:
    """Membership lives in memory: who was down before all others were restarted is known to the ring alone."""
    body = {"members": [member("amy"), member("bob", "dead")]}
    placed = [{"id": one["id"]} for one in body["members"]] + [{"id": "c" * 32}]
    absent = members.find_absent(_Node(placed), body)  # type: ignore[arg-type]
    assert absent == ["c" * 32]
    assert members.find_absent(_Node(None), body) == []  # type: ignore[arg-type]
    told, remedy = members.absent_lines(absent)
    assert told == f"1 more node is on the ring and was not heard of since this node started: {'c' * 32}"
    assert "frys-node node remove ID" in remedy
    assert members.absent_lines(["x", "y"])[0].startswith("2 more are on the ring and were not heard of")
    assert members.absent_lines([]) == []
