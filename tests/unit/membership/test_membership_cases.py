"""One case of crash evidence by itself: objections, and what a pause of this node does to them."""

from __future__ import annotations

from frys_node.base.types import NodeId
from membership.cases import OBSERVERS_MAX, Case, Report

A, B, C, H = (NodeId(letter) for letter in "abch")


def make(*observers: NodeId) -> Case:
    """A case with reports of 10 s."""
    case = Case(H, 1, 0, 10.0)
    for observer in observers:
        assert case.add(observer, Report(10.0, True))
    return case


def test_an_acknowledgement_before_the_first_report_answers_nothing() -> None:
    """It was said of a process that still was."""
    case = make()
    assert case.acknowledge(A, 9.9)
    assert not case.is_vetoed(10.0)


def test_an_acknowledgement_counts_until_its_voucher_reports() -> None:
    """For five seconds, or until the same member has told of the crash."""
    case = make(A)
    assert case.acknowledge(B, 11.0)
    assert case.is_vetoed(15.9)
    assert not case.is_vetoed(16.0)
    assert case.add(B, Report(12.0, True))
    assert not case.is_vetoed(12.0)
    assert not case.acknowledge(B, 12.1)
    case.veto(B, 13.0)
    assert case.acknowledge(B, 19.0)
    assert case.is_vetoed(19.0)


def test_a_pause_of_this_node_moves_every_time_of_a_case() -> None:
    """Vetoes, acknowledgements, reports, what is due and when it may accuse: all are as old as before."""
    case = make(A)
    case.veto(B, 11.0)
    case.acknowledge(C, 11.5)
    case.due, case.pings, case.again_s = [12.0, 12.1], [12.05], 14.0
    case.shift(20.0)
    assert case.is_vetoed(36.4)
    assert not case.is_vetoed(36.5)
    assert case.veto_until_s == 36.0
    assert case.reports[A].at_s == 30.0
    assert (case.due, case.pings, case.again_s) == ([32.0, 32.1], [32.05], 34.0)
    assert (case.next_s, case.ends_s) == (32.0, 40.0)


def test_a_case_lasts_as_long_as_this_node_may_not_accuse() -> None:
    """On a WAN the quiet time is longer than evidence is kept."""
    case = make(A)
    assert case.ends_s == 20.0
    case.again_s = 40.0
    assert case.ends_s == 40.0


def test_a_case_is_bounded() -> None:
    """Neither more observers nor more vouchers than there can be."""
    case = make(*(NodeId(str(index)) for index in range(OBSERVERS_MAX)))
    assert not case.add(A, Report(10.0, True))
    assert case.add(NodeId("0"), Report(11.0, True))
    for index in range(100, 100 + 2 * OBSERVERS_MAX):
        assert case.acknowledge(NodeId(str(index)), 11.0)
    assert len(case._acks) == OBSERVERS_MAX
