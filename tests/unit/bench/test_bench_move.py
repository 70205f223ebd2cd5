"""The arithmetic of the move benchmark and its clients: which requests belong to a span, and what is told of them."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from frys_node.bench.move import AT_LEAVER, ELSEWHERE, WRITERS, Stage, figures_of, point_of
from frys_node.bench.move_cluster import Cluster, key_place, point_place
from frys_node.bench.move_load import (
    Client,
    LibraryClient,
    PlainClient,
    Request,
    Sample,
    Span,
    failed,
    p99_ms,
    pause_ms,
)
from frys_node.client.blocking import SyncServices
from frys_node.client.table import Table

CALM, LEAVE = Span(0.0, 10.0), Span(20.0, 30.0)
LEAVER, OTHER = 7, 8
"""Ports."""


def client(name: str, group: str, samples: list[Sample]) -> Client:
    """Return a client that has sent these."""
    made = PlainClient(name, group, 1.0, 1, lambda _number: Request("GET", "/", b""))
    made.samples = samples
    return made


def test_a_request_belongs_to_every_span_that_it_was_on_its_way_in() -> None:
    """One that was sent before a leave and answered within it is one that the leave may have delayed."""
    samples = [Sample(19.0, 2.0, True), Sample(19.0, 0.5, True), Sample(29.9, 9.0, True)]
    assert LEAVE.of(samples) == [samples[0], samples[2]]
    assert pause_ms(LEAVE.of(samples)) == 9_000.0
    assert (p99_ms([]), pause_ms([]), LEAVE.seconds) == (0.0, 0.0, 10.0)


def test_errors_and_silence_are_failures_and_stand_beside_those_before() -> None:
    """Each figure of a span has the same one of the calm before as its peer; only writers have pauses."""
    fast = [Sample(float(n), 0.001, True) for n in range(10)]
    slow = [Sample(20.0 + n / 10, 0.02, True) for n in range(99)]
    writer = client("cache write", ELSEWHERE, [*fast, *slow, Sample(25.0, 0.1, False)])
    reader = client("cache read", ELSEWHERE, [*fast, Sample(26.0, 5.0, False)])
    assert failed(reader.samples) == 1
    found = {
        f.name: f
        for f in figures_of([writer, reader], Stage(CALM, 0.0, 10.0), {"leave": Stage(LEAVE, 7.0, 40.0)}, 0, LEAVER)
    }
    assert (found["leave: failed requests"].ours, found["leave: failed requests"].peer) == (2, 0)
    pause = found["leave: longest wait of a writer"]
    assert pause.peer is not None
    assert (round(pause.ours), round(pause.peer)) == (100, 1)
    assert (round(found["leave: cache write p99"].ours), found["leave: cache write p99"].budget) == (100, "<= 2x")
    assert found["leave: bytes moved by snapshot"].ours == 7.0
    assert found["leave: processors in use, by all"].ratio == 4.0
    assert found["failed requests, from the first to the last"].ours == 2
    assert found["acknowledged writes lost"].ours == 0


def test_the_leavers_clients_are_told_apart_from_the_others() -> None:
    """How long each group waited, how long the leaver answered its clients, and what was sent again for its end."""
    before = [Sample(1.0, 0.002, True, LEAVER)]
    during = [Sample(21.0, 0.03, True, LEAVER), Sample(24.0, 0.3, True, OTHER, 2), Sample(25.0, 0.03, True, OTHER)]
    there = client("cache write", AT_LEAVER, before + during)
    other = client("cache write", ELSEWHERE, [Sample(1.0, 0.001, True, OTHER), Sample(22.0, 0.05, True, OTHER)])
    found = {f.name: f for f in figures_of([there, other], Stage(CALM), {"leave": Stage(LEAVE)}, 0, LEAVER)}
    assert round(found[f"leave, {AT_LEAVER}: longest wait of a writer"].ours) == 300
    assert round(found[f"leave, {ELSEWHERE}: longest wait of a writer"].ours) == 50
    answered = found[f"leave, {AT_LEAVER}: answered by it"]
    assert (answered.ours, answered.peer) == (1, 3)
    assert round(found[f"leave, {AT_LEAVER}: its last answer"].ours, 2) == 1.03
    assert found[f"leave, {AT_LEAVER}: sent again"].ours == 1
    assert found[f"before, {AT_LEAVER}: answered by it"].ours == 1


def test_no_two_writers_ever_write_the_same_point() -> None:
    """Each has a lane of its own, goes through all of it, and stays among the points that there are."""
    lanes = [{point_of(lane, number, 3_000) for number in range(1_000)} for lane in range(WRITERS)]
    assert [len(lane) for lane in lanes] == [1_000] * WRITERS
    assert set.union(*lanes) == set(range(3_000))
    assert max(point_of(WRITERS - 1, number, 500) for number in range(2_000)) < 500


def test_who_holds_a_key_is_read_from_the_table_that_clients_go_by() -> None:
    """The leaver's clients write what it is the first to hold; what it holds at all is counted while filling."""
    cluster = Cluster.__new__(Cluster)
    cluster.table = Table(json.dumps(placement(["a", "b", "c"], [[1, 0], [0, 2]])).encode())
    low, high = key_place("b"), key_place("a")
    assert (low[1] < 8_192, high[1] < 8_192) == (True, False)
    assert cluster.holds("b", low)
    assert cluster.leads("b", low)
    assert cluster.holds("a", low)
    assert not cluster.leads("a", low)
    assert not cluster.holds("b", high)
    assert cluster.leads("c", point_place(1))


def placement(names: list[str], cache: list[list[int]], urls: dict[str, str] | None = None) -> dict[str, object]:
    """What a node answers to ``GET /v1/placement``."""
    nodes = [
        {"id": name, "name": name, "http": (urls or {}).get(name, "127.0.0.1:1"), "status": "alive", "condition": "ok"}
        for name in names
    ]
    collections = {"move": [[2, 0]]}
    return {
        "epoch": "1.2",
        "partitions": 2,
        "nodes": nodes,
        "cache": cache,
        "workflow": [[0]],
        "collections": collections,
    }


class Node(http.server.BaseHTTPRequestHandler):
    """Answers the placement and takes every write."""

    protocol_version = "HTTP/1.1"

    def __init__(self, told: dict[str, str], *arguments: object) -> None:
        self.told = told
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer the placement."""
        self._answer(json.dumps(placement(["a", "b"], [[1, 0]], self.told) | {"collections": {}}).encode())

    def do_PUT(self) -> None:
        """Take a write."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def serving(told: dict[str, str]) -> Iterator[http.server.ThreadingHTTPServer]:
    """Run such a node on a free port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Node, told)) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_a_client_of_the_library_says_who_answered_and_how_often_it_tried() -> None:
    """It asks the first holder; when that has gone the same operation is answered by the next, after two tries."""
    told: dict[str, str] = {}

    def put(services: SyncServices, number: int) -> None:
        services.cache("bench").put("k", b"%d" % number)

    with serving(told) as other:
        with serving(told) as leaver:
            told |= {"a": f"127.0.0.1:{other.server_port}", "b": f"127.0.0.1:{leaver.server_port}"}
            made = LibraryClient("cache write", AT_LEAVER, 1.0, leaver.server_port, put)
            assert made.send(0) == (True, leaver.server_port, 1)
            assert made.send(1) == (True, leaver.server_port, 1)
        made.close()
        assert made.send(2) == (True, other.server_port, 2)
    made.close()
    is_ok, port, tries = made.send(3)
    assert (is_ok, port) == (False, 0)
    assert tries > 1
    assert made.errors
    made.close()


def test_a_plain_client_notes_errors_and_goes_on_with_a_new_connection() -> None:
    """A refusal and a silence are failures, each with its text; what was answered well is told to whoever asked."""
    done: list[int] = []

    def make(number: int) -> Request:
        return Request("PUT", "/x", b"1", ok=(200,) if number else (201,), on_ok=lambda: done.append(number))

    with serving({}) as node:
        made = PlainClient("cache write", ELSEWHERE, 1.0, node.server_port, make)
        assert made.send(0) == (False, node.server_port, 1)
        assert made.send(1) == (True, node.server_port, 1)
        made.close()
    assert made.send(2) == (False, 0, 1)
    made.close()
    assert done == [1]
    assert [error.split(":")[0] for error in made.errors] == ["HTTP 200", "no answer"]
