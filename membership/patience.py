"""How long the other side of a connection may take, by the round trips to it.

Sans-I/O. What is enough on one floor is not enough across an ocean: a kernel 400 ms away that has lost one packet
acknowledges after a second. `trip_s` is what one round trip takes at most (srtt + 4 rttvar, RFC 6298), `TRIP_MAX_S`
at the most. Within a data centre it is so little that the constants alone count.
"""

from __future__ import annotations

TRIP_MAX_S = 1.0
"""Longest round trip that is reckoned with: whoever is further away is judged too early rather than never."""

ACKNOWLEDGED_MIN_S = 0.3
"""Shortest wait for a kernel to acknowledge."""

RESEND_S = 0.2
"""What Linux waits beyond a round trip, at least, before it sends again what was not acknowledged."""

RACE_LIMIT_S = 1.2
RACE_TRIPS = 4
"""A race of dials: one trip to connect, two to greet, and one in case of loss."""

NUDGE_LIMIT_S = 2.4
NUDGE_TIMEOUT_S = 2.5
NUDGE_TRIPS = RACE_TRIPS + 2
"""A nudge may end in a race for the port and a wait for who is behind it."""


def acknowledged_within_s(trip_s: float) -> float:
    """Return how long the other kernel may take to acknowledge a byte, of which one packet was lost on the way."""
    return max(ACKNOWLEDGED_MIN_S, RESEND_S + 2.0 * trip_s)


def greeted_within_s(patience_s: float, trip_s: float) -> float:
    """Return how long whoever has accepted a connection may take to say who it is: two trips, and its own time."""
    return patience_s + 2.0 * trip_s


def race_limit_s(trip_s: float) -> float:
    """Return the longest race of dials, greeting included."""
    return RACE_LIMIT_S + RACE_TRIPS * trip_s


def nudge_limit_s(trip_s: float) -> float:
    """Return the longest nudge, looks at the port included; less than the watch waits (`nudge_timeout_s`)."""
    return NUDGE_LIMIT_S + NUDGE_TRIPS * trip_s


def nudge_timeout_s(trip_s: float) -> float:
    """Return after which time a nudge that nobody reports on says nothing."""
    return NUDGE_TIMEOUT_S + NUDGE_TRIPS * trip_s
