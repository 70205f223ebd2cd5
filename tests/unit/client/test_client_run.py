"""Where calls go, and what follows when they come back without an answer: literal instants, no sockets."""

from __future__ import annotations

import pytest
from client_rig import BROKEN, LATE, NODES, REFUSED, A, B, C, answer, get, known, placement, started

from frys_node.base.errors import DeadlineExceeded, FrysError, NodeUnreachable, NoReplica, Overloaded
from frys_node.client.calls import Answer, Call
from frys_node.client.core import DOWN_S, REFRESH_S, Core
from frys_node.client.run import PIPELINE_MAX

SLOTS_OF_A, SLOT_OF_B = (0, 100), 5_000


def test_calls_fly_straight_to_the_first_owner_and_share_a_flight() -> None:
    """Two keys of one owner travel together, a key of another one by itself, answers come back in the order asked."""
    run, flights = started(known(), get(SLOT_OF_B), *map(get, SLOTS_OF_A))
    assert [(flight.address, flight.positions) for flight in flights] == [(B, (0,)), (A, (1, 2))]
    first, second, third = (answer(body=text) for text in (b"b", b"a0", b"a1"))
    assert not run.landed(flights[1], [second, third], 1.1)
    assert not run.landed(flights[0], [first], 1.2)
    assert run.results == [first, second, third]


def test_a_long_pipeline_is_cut_and_patient_calls_fly_alone() -> None:
    """No flight is longer than a node queues, and nobody waits behind an answer that takes its time."""
    calls = [get(0)] * (PIPELINE_MAX + 1) + [get(0, is_patient=True)] * 2
    _, flights = started(known(), *calls)
    assert [len(flight.calls) for flight in flights] == [PIPELINE_MAX, 1, 1, 1]


def test_without_a_table_the_placement_is_asked_for_first() -> None:
    """The first operation learns the ring from a seed, and then goes to the owner."""
    core = Core([C])
    run, (look,) = started(core, get(0))
    assert (look.address, look.positions, look.calls[0].path) == (C, (), "/v1/placement")
    (flight,) = run.landed(look, [answer(body=placement())], 1.1)
    assert flight.address == A


def test_a_seed_that_is_down_is_passed_over_for_the_next() -> None:
    """The placement comes from whichever seed answers; when none does, the error names them and nothing was sent."""
    run, (look,) = started(Core([A, B]), get(0))
    (second,) = run.landed(look, [REFUSED], 1.1)
    assert {look.address, second.address} == {A, B}
    assert run.landed(second, [REFUSED], 1.2) == []
    (error,) = run.results
    assert isinstance(error, NodeUnreachable)
    assert str(A) in error.message
    assert str(B) in error.message


def test_a_refused_connection_costs_no_sending_so_each_node_is_tried_once() -> None:
    """Also what must not be done twice goes on to the next node: nothing was sent."""
    run, (flight,) = started(known(), get(0, is_idempotent=False))
    tried = [flight.address]
    while True:
        following = run.landed(flight, [REFUSED], 1.5)
        if not following:
            break
        (flight,) = following
        tried.append(flight.address)
    assert tried[:2] == [A, B]  # the owners first
    assert sorted(tried) == sorted(NODES)
    assert isinstance(run.results[0], NodeUnreachable)


@pytest.mark.parametrize("failure", [BROKEN, LATE])
def test_a_lost_answer_is_asked_for_once_more_elsewhere(failure: object) -> None:
    """An idempotent call is sent twice at most, the second time to another owner."""
    run, (first,) = started(known(), get(0))
    (second,) = run.landed(first, [failure], 3.0)  # type: ignore[list-item]
    assert (first.address, second.address) == (A, B)
    assert run.landed(second, [BROKEN], 3.1) == []
    (error,) = run.results
    assert isinstance(error, NodeUnreachable)
    assert "unknown" in error.message


def test_what_may_not_be_done_twice_is_not_sent_again() -> None:
    """A counter whose answer is lost is an error that says that nobody knows."""
    run, (flight,) = started(known(), get(0, is_idempotent=False))
    assert run.landed(flight, [BROKEN], 1.5) == []
    assert isinstance(run.results[0], NodeUnreachable)


def test_only_what_was_not_answered_is_sent_again() -> None:
    """Of a pipeline that breaks off the answers that came count."""
    run, (flight,) = started(known(), *map(get, SLOTS_OF_A))
    kept = answer(body=b"1")
    (again,) = run.landed(flight, [kept, BROKEN], 1.5)
    assert again.positions == (1,)
    late = answer(body=b"2")
    assert run.landed(again, [late], 1.6) == []
    assert run.results == [kept, late]


def test_the_first_sending_may_take_half_of_the_time() -> None:
    """There is time for a second one; a call that is sent only once, or is patient, may take all of it."""
    core = known()
    _, (half,) = started(core, get(0), deadline_s=11.0)
    _, (whole,) = started(core, get(0, is_idempotent=False), deadline_s=11.0)
    assert (half.deadline_s, whole.deadline_s) == (6.0, 11.0)
    run, (flight,) = started(core, get(0), deadline_s=11.0)
    (second,) = run.landed(flight, [LATE], 6.0)
    assert second.deadline_s == 11.0
    assert run.landed(second, [LATE], 11.0) == []
    assert isinstance(run.results[0], DeadlineExceeded)


@pytest.mark.parametrize("code", ["routing.not_owner", "routing.stale_epoch"])
def test_a_redirect_asks_for_the_ring_and_goes_to_the_new_owner(code: str) -> None:
    """After an epoch change the call is sent once more, by the new table."""
    run, (first,) = started(known(), get(0))
    (look,) = run.landed(first, [answer(421, code, epoch="1.6")], 1.1)
    assert look.positions == ()
    (second,) = run.landed(look, [answer(body=placement("1.6", cache=((2, 1),) * 4))], 1.2)
    assert (first.address, second.address) == (A, C)
    assert run.landed(second, [answer(421, code, epoch="1.6")], 1.3) == []
    assert isinstance(run.results[0], FrysError)
    assert run.results[0].code == code


def test_a_counter_follows_a_node_that_did_nothing_but_not_a_quorum_that_failed() -> None:
    """`routing.not_owner` says that nothing was done; after `routing.no_replica` something may have been."""
    run, (flight,) = started(known(), get(0, is_idempotent=False))
    (look,) = run.landed(flight, [answer(421, "routing.not_owner")], 1.1)
    (again,) = run.landed(look, [answer(body=placement())], 1.2)
    assert run.landed(again, [answer()], 1.3) == []
    assert isinstance(run.results[0], Answer)
    run, (flight,) = started(known(), get(0, is_idempotent=False))
    assert run.landed(flight, [answer(503, "routing.no_replica")], 1.1) == []
    assert isinstance(run.results[0], NoReplica)


def test_a_node_that_starts_is_asked_after_a_pause_and_another_one_first() -> None:
    """`node.not_ready` leads to the next owner, a tenth of a second later."""
    run, (first,) = started(known(), get(0))
    (second,) = run.landed(first, [answer(503, "node.not_ready")], 1.1)
    assert second.address == B
    assert second.not_before_s == pytest.approx(1.2)


def test_an_overloaded_node_is_left_to_the_caller() -> None:
    """Sending again at once is what an overloaded node needs least."""
    run, (flight,) = started(known(), get(0))
    assert run.landed(flight, [answer(429, "routing.overloaded")], 1.1) == []
    assert isinstance(run.results[0], Overloaded)


def test_an_accepted_status_is_an_answer_and_any_other_error_has_its_class() -> None:
    """A miss is no error where the plan says so; what is not JSON is told with its status."""
    run, (flight,) = started(known(), get(0, accepts=(404,)), get(0), get(0))
    missed = answer(404, "cache.miss")
    run.landed(flight, [missed, answer(404, "cache.miss"), answer(502, body=b"<html>")], 1.1)
    accepted, refused, strange = run.results
    assert accepted is missed
    assert isinstance(refused, FrysError)
    assert refused.code == "cache.miss"
    assert isinstance(strange, FrysError)
    assert "502" in strange.message


def test_a_newer_epoch_in_an_answer_is_looked_up_before_the_next_operation() -> None:
    """The answer counts; the next run begins with a look at the placement."""
    core = known()
    run, (flight,) = started(core, get(0))
    assert run.landed(flight, [answer(epoch="1.6")], 1.1) == []
    assert isinstance(run.results[0], Answer)
    _, (look,) = started(core, get(0))
    assert look.positions == ()


def test_a_node_that_lags_behind_is_not_asked_in_a_circle() -> None:
    """A table older than what was heard of is used, and asked for again only after a pause."""
    core = known()
    core.heard(answer(epoch="1.9"))
    run, (look,) = started(core, get(0))
    (flight,) = run.landed(look, [answer(body=placement("1.5"))], 1.1)
    assert flight.positions == (0,)
    assert not core.is_stale(1.1)
    assert core.is_stale(1.5)


def test_a_table_that_cannot_be_had_does_not_stop_the_work() -> None:
    """When no node gives the placement the old table goes on, within one round over the nodes."""
    core = known()
    core.heard(answer(epoch="1.6"))
    run, flights = started(core, get(0))
    looked = []
    while flights and not flights[0].positions:
        looked.append(flights[0].address)
        flights = run.landed(flights[0], [answer(503, "node.not_ready")], 1.1)
    assert sorted(looked) == sorted(NODES)
    assert flights[0].positions == (0,)


def test_a_wrong_token_is_told_at_once() -> None:
    """Nobody else is asked with it."""
    run, (look,) = started(Core([A, B]), get(0))
    assert run.landed(look, [answer(401, "http.unauthorised")], 1.1) == []
    assert isinstance(run.results[0], FrysError)
    assert run.results[0].code == "http.unauthorised"


def test_a_node_that_failed_is_passed_over_for_a_second() -> None:
    """The next operation goes to the second owner at once, and after `DOWN_S` to the first again."""
    core = known()
    run, (flight,) = started(core, get(0))
    run.landed(flight, [REFUSED], 1.0)
    assert core.pick(("cache", 0), 1.5) == B
    assert core.pick(("cache", 0), 1.0 + DOWN_S) == A


def test_members_that_do_badly_come_last_and_dead_ones_not_at_all() -> None:
    """A suspect or slow owner is asked when no well one is left; a dead one is no owner any more."""
    assert known(status=("suspect", "alive", "alive")).pick(("cache", 0), 1.0) == B
    assert known(condition=("slow", "ok", "ok")).pick(("cache", 0), 1.0) == B
    core = known(status=("dead", "suspect", "alive"))
    assert core.pick(("cache", 0), 1.0) == B
    assert core.pick(("cache", 0), 1.0, {B}) == C


def test_what_has_no_owner_goes_round() -> None:
    """Members and listings are asked of one node after the other."""
    core = known()
    asked = {started(core, Call("GET", "/v1/members"))[1][0].address for _ in NODES}
    assert asked == set(NODES)


def test_a_client_that_keeps_to_its_seeds_asks_for_no_table() -> None:
    """Behind a load balancer the nodes' own addresses are of no use."""
    core = Core([B], straight=False)
    run, (flight,) = started(core, get(0))
    assert (flight.address, flight.positions) == (B, (0,))
    run.landed(flight, [answer(epoch="7.7")], 1.1)
    assert not core.is_stale(99.0)


def test_the_table_grows_old() -> None:
    """Rumours of health are asked for again after half a minute although no epoch changed."""
    core = known()
    assert not core.is_stale(REFRESH_S - 1)
    assert core.is_stale(REFRESH_S)
