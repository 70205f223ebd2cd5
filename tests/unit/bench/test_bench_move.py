"""The arithmetic of the move benchmark: which requests belong to a span, and what is told of them."""

from __future__ import annotations

from frys_node.bench.move import figures_of
from frys_node.bench.move_load import Client, Request, Sample, Span, failed, p99_ms, pause_ms

CALM, LEAVE = Span(0.0, 10.0), Span(20.0, 30.0)


def client(name: str, samples: list[Sample]) -> Client:
    """Return a client that has sent these."""
    made = Client(name, 1, 1.0, lambda _number: Request("GET", "/", b""))
    made.samples = samples
    return made


def test_a_request_belongs_to_every_span_that_it_was_on_its_way_in() -> None:
    """One that was sent before a leave and answered within it is one that the leave may have delayed."""
    samples = [Sample(19.0, 2.0, 200, True), Sample(19.0, 0.5, 200, True), Sample(29.9, 9.0, 200, True)]
    assert LEAVE.of(samples) == [samples[0], samples[2]]
    assert pause_ms(LEAVE.of(samples)) == 9_000.0
    assert (p99_ms([]), pause_ms([]), LEAVE.seconds) == (0.0, 0.0, 10.0)


def test_errors_and_silence_are_failures_and_stand_beside_those_before() -> None:
    """Each figure of a span has the same one of the calm before as its peer; only writers have pauses."""
    fast = [Sample(float(n), 0.001, 200, True) for n in range(10)]
    slow = [Sample(20.0 + n / 10, 0.02, 200, True) for n in range(99)]
    writer = client("cache write", [*fast, *slow, Sample(25.0, 0.1, 503, False)])
    reader = client("cache read", [*fast, Sample(26.0, 5.0, 0, False)])
    assert failed(reader.samples) == 1
    found = {f.name: f for f in figures_of([writer, reader], CALM, {"leave": LEAVE}, {"leave": 7.0}, 0)}
    assert (found["leave: failed requests"].ours, found["leave: failed requests"].peer) == (2, 0)
    pause = found["leave: longest pause of a writer"]
    assert (round(pause.ours), round(pause.peer)) == (100, 1)
    assert (round(found["leave: cache write p99"].ours), found["leave: cache write p99"].budget) == (100, "<= 2x")
    assert found["leave: bytes moved by snapshot"].ours == 7.0
    assert found["acknowledged writes lost"].ours == 0
