"""The relay's decisions: when a frame leaves, in which order, to whom, and that a seed replays them."""

from __future__ import annotations

import pytest

from frys_node.bench.relay import VNET_BYTES, Delays, Due, Switch

A, B, C = b"\x02aaaaa", b"\x02bbbbb", b"\x02ccccc"


def frame(target: bytes, sender: bytes) -> bytes:
    """A frame with the kernel's header before it."""
    return bytes(VNET_BYTES) + target + sender + b"\x08\x00payload"


def flow(delays: Delays, source: int, port: int, count: int) -> list[Due]:
    """Put a frame a millisecond on one path and take what comes out."""
    for number in range(count):
        delays.put(number / 1000, source, port, b"%d" % number)
    return delays.take(1000.0)


def test_frames_are_late_by_the_delay_and_jitter_reorders_them() -> None:
    """Each is due within its bounds; with more jitter than spacing some overtake others, none is lost."""
    out = flow(Delays(1, 0.040, 0.020), 0, 1, 200)
    late = [due.at_s - int(due.frame) / 1000 for due in out]
    assert min(late) >= 0.020
    assert max(late) <= 0.060
    order = [int(due.frame) for due in out]
    assert order != sorted(order)
    assert sorted(order) == list(range(200))


def test_without_jitter_the_order_stays() -> None:
    """Equal delays keep frames in order, even those of the same instant."""
    delays = Delays(1, 0.040, 0.0)
    for number in range(50):
        delays.put(1.0, 0, 1, b"%d" % number)
    assert delays.take(1.039) == []
    assert [int(due.frame) for due in delays.take(1.041)] == list(range(50))


def test_a_seed_replays_a_path_whatever_happens_on_others() -> None:
    """The k-th frame of a path has the same fate with and without other traffic; another seed gives another."""
    alone = flow(Delays(7, 0.040, 0.020, loss=0.2), 0, 1, 100)
    crowded = Delays(7, 0.040, 0.020, loss=0.2)
    for number in range(100):
        crowded.put(0.0, 1, 0, b"x")
        crowded.put(number / 1000, 0, 1, b"%d" % number)
    fates = [(due.at_s, due.frame) for due in crowded.take(1000.0) if due.port == 1]
    assert fates == [(due.at_s, due.frame) for due in alone]
    assert flow(Delays(8, 0.040, 0.020, loss=0.2), 0, 1, 100) != alone


def test_loss_is_about_what_was_asked_for_and_is_counted() -> None:
    """A fifth of the frames never arrive."""
    delays = Delays(1, 0.010, 0.0, loss=0.2)
    assert len(flow(delays, 0, 1, 2000)) == 2000 - delays.dropped
    assert delays.dropped == pytest.approx(400, abs=80)


def test_the_next_instant_is_known() -> None:
    """The relay sleeps until something is due, and for ever when nothing is."""
    delays = Delays(1, 0.040, 0.0)
    assert delays.wait_s(0.0) is None
    delays.put(1.0, 0, 1, b"x")
    assert delays.wait_s(1.0) == pytest.approx(0.040)
    assert delays.wait_s(2.0) == 0.0


def test_the_switch_learns_who_is_where() -> None:
    """Unknown and broadcast go everywhere else, known ones to one cable, and nothing goes back where it came from."""
    switch = Switch(3)
    assert switch.route(0, frame(b"\xff" * 6, A)) == [1, 2]
    assert switch.route(1, frame(A, B)) == [0]
    assert switch.route(0, frame(B, A)) == [1]
    assert switch.route(0, frame(C, A)) == [1, 2]
    assert switch.route(0, frame(A, B)) == []
