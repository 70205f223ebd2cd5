"""A flood of junk handshakes beside a healthy peer: a short one of `frys-node bench flood`, which measures it."""

from __future__ import annotations

from verify_tally import Tally

from frys_node.bench import flood
from frys_node.bench.runner import percentile

CONNECTIONS = 2_000
CALLS_LEAST = 500
"""Calls that the peer has to get through while the flood lasts: one run of them."""


def floods(connections: int = CONNECTIONS) -> list[Tally]:
    """Throw junk at a node while a peer calls it without a pause: every call is answered, and there are many."""
    tally = Tally("junk connections beside a peer", "connections")
    try:
        (measured,) = flood.measure(1, connections).rounds
    except Exception as error:  # noqa: BLE001 (a call that fails comes out of the peer's nurseries)
        tally.wrong.append(f"the peer's calls did not all succeed: {error!r}")
        return [tally]
    tally.tried = connections
    if len(measured.beside) < CALLS_LEAST:
        tally.wrong.append(f"only {len(measured.beside)} calls were answered beside the flood")
    before, beside = (percentile(values, 99) for values in (measured.before, measured.beside))
    tally.notes.append(f"{len(measured.beside)} calls beside it, p99 {before:.1f} ms before and {beside:.1f} ms beside")
    return [tally]
