"""phi by its formula, and the window of beats that it is computed from."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frys_node.base.types import NodeId
from membership.circle import Circle
from membership.phi import WINDOW, Beats, deviations_at, phi_at


def beats(*, now_s: float = 0.0, interval_s: float = 1.0, pause_s: float = 0.5, sd_min_s: float = 0.1) -> Beats:
    """A window that has heard its first beat."""
    made = Beats(interval_s, pause_s=pause_s, sd_min_s=sd_min_s, now_s=now_s)
    made.beat(now_s)
    return made


@pytest.mark.parametrize(("z", "phi"), [(0.0, 0.30103), (4.2649, 5.0), (5.6120, 8.0), (-3.0, 0.000587)])
def test_phi_is_the_exact_normal_tail(z: float, phi: float) -> None:
    """The values of a table of the normal distribution, not those of the logistic approximation."""
    assert phi_at(z) == pytest.approx(phi, rel=1e-3)


def test_phi_grows_without_end_and_stays_finite() -> None:
    """From far below the mean to days above it: monotone, also where erfc underflows and the series takes over."""
    silences = [z / 10 for z in range(-400, 4_000)] + [1e3, 1e4, 1e6]
    values = [phi_at(z) for z in silences]
    assert values == sorted(values)
    assert all(math.isfinite(value) for value in values)
    assert phi_at(25.0) == pytest.approx(phi_at(24.999_999), abs=2e-5)


@given(st.floats(min_value=0.01, max_value=100.0))
def test_the_inverse_gives_the_deadline(phi: float) -> None:
    """A deadline computed from a phi is the instant at which phi has that value."""
    assert phi_at(deviations_at(phi)) == pytest.approx(phi, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("interval_s", "pause_s", "sd_min_s", "slow_s", "suspect_s"),
    [
        (0.5, 0.5, 0.1, 1.43, 1.56),
        (0.5, 0.5, 0.05, 1.21, 1.28),
        (1.0, 0.5, 0.1, 1.93, 2.06),
        (1.0, 1.0, 0.1, 2.43, 2.56),
        (2.0, 3.0, 0.2, 5.85, 6.12),
    ],
)
def test_the_profiles_cross_when_the_study_says(
    interval_s: float, pause_s: float, sd_min_s: float, slow_s: float, suspect_s: float
) -> None:
    """Mean + pause + z * deviation, counted from the last ack, on a quiet network."""
    window = Beats(interval_s, pause_s=pause_s, sd_min_s=sd_min_s, now_s=0.0)
    for number in range(WINDOW + 1):
        window.beat(number * interval_s)
    assert window.crossing_s(5.0) - window.last_s == pytest.approx(slow_s, abs=0.006)
    assert window.crossing_s(8.0) - window.last_s == pytest.approx(suspect_s, abs=0.006)
    assert window.phi(window.crossing_s(8.0)) == pytest.approx(8.0)


def test_a_young_window_is_no_slower_than_an_old_one() -> None:
    """The prior of two intervals 10 % around the expected one has a deviation at the minimum."""
    assert beats().crossing_s(8.0) == pytest.approx(2.06, abs=0.006)


def test_outages_are_not_learnt() -> None:
    """An interval over three means, and the first after it was asked to skip, leave mean and deviation alone."""
    window = beats()
    for number in range(1, 11):
        window.beat(float(number))
    window.beat(20.0)
    assert window.mean_s == pytest.approx(1.0)
    window.skip()
    window.beat(22.5)
    assert window.mean_s == pytest.approx(1.0)
    window.beat(23.7)
    assert window.mean_s > 1.0


def test_only_the_last_window_counts() -> None:
    """Bad weather is forgotten after `WINDOW` intervals."""
    window = beats()
    now_s = 0.0
    for interval_s in [1.9, 0.1] * 30 + [1.0] * WINDOW:
        now_s += interval_s
        window.beat(now_s)
    assert window.deviation_s == pytest.approx(0.1)


def test_a_pause_of_this_node_is_no_silence_of_the_other() -> None:
    """After `shift` the time lost does not count, and the interval that was torn is no sample."""
    window = beats()
    window.beat(1.0)
    window.shift(5.0)
    assert window.phi(7.0) < 1.0
    window.beat(7.2)
    assert window.mean_s == pytest.approx(1.0)


@given(st.lists(st.text("abcdefgh", min_size=1, max_size=2), unique=True, min_size=1, max_size=9), st.integers(0, 9))
def test_the_circle_turns_alike_in_both_directions(names: list[str], count: int) -> None:
    """Whom a node watches are exactly those who have it among their watchers, whatever order members came in."""
    circle = Circle(NodeId(names[0]))
    for name in names:
        circle.add(NodeId(name))
    ordered = sorted(names)
    for place, name in enumerate(ordered):
        expected = [ordered[(place + step) % len(ordered)] for step in range(1, min(count, len(ordered) - 1) + 1)]
        assert circle.after(NodeId(name), count) == expected
        watching = [other for other in ordered if name in circle.watchers(NodeId(other), count)]
        assert sorted(circle.before(NodeId(name), count)) == watching


def test_helpers_stand_beyond_the_watchers() -> None:
    """Watchers are the next three, helpers the next three after them, and the version tells of every change."""
    circle = Circle(NodeId("a"))
    for name in "bcdefgh":
        circle.add(NodeId(name))
    assert circle.watchers(NodeId("f")) == ["g", "h", "a"]
    assert circle.helpers(NodeId("f")) == ["b", "c", "d"]
    version = circle.version
    circle.add(NodeId("a"))
    assert circle.version == version
    circle.discard(NodeId("g"))
    circle.discard(NodeId("g"))
    assert circle.version == version + 1
    assert circle.watchers(NodeId("f")) == ["h", "a", "b"]
