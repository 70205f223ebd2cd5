"""HTTP under fuzz: requests however they are cut, and the JSON bodies of the vector routes."""

from __future__ import annotations

import msgspec
from fuzz_machine import check

from frys_node.base.errors import FrysError, UsageError
from frys_node.kernel.services.http import HttpRequest
from frys_node.plugins.network.body import is_too_deep
from frys_node.plugins.network.config import HttpLimits
from frys_node.plugins.network.parser import Phase, Request, RequestParser
from frys_node.plugins.vector.filters import compile_filter
from frys_node.plugins.vector.rest import CreateCollection, QueryBody, ScrollBody, UpsertBody

LIMITS = HttpLimits(header_bytes=1_024, header_count=16, target_bytes=128)
BODY_BYTES_MAX = 512
DEPTH_MAX = 64
STREAM_BYTES_MAX = 4_096
CUTS = (1, 3, 17, 256)
FORMS = (CreateCollection, UpsertBody, QueryBody, ScrollBody)

PAYLOAD = {"a": 1, "b": [1.5, "x", None, {"c": True}], "geo": {"lon": 1.0, "lat": 2.0}}

BODIES = (
    b'{"vectors": {"size": 4, "distance": "Cosine"}, "replication_factor": 3}',
    b'{"points": [{"id": 1, "vector": [0.1, 0.2], "payload": {"a": {"b": [1, "x", null]}}}]}',
    b'{"query": [0.1, 0.2], "filter": {"must": [{"key": "a", "match": {"value": 1}}]}, "limit": 3}',
    b'{"must": [{"key": "a", "match": {"any": [1, 2]}}, {"key": "b[].c", "match": {"value": true}}], "should": []}',
    b'{"filter": {"should": [{"key": "b", "range": {"gte": 1.5}}], "must_not": [{"has_id": [1, 2]}]}, "limit": 10}',
)


def _admit(request: Request) -> int:
    return BODY_BYTES_MAX


def _read(data: bytes, cut: int) -> tuple[list[tuple[object, ...]], bool]:
    """Return the requests that came out, and whether something was refused."""
    parser = RequestParser(LIMITS, _admit)
    for start in range(0, len(data), cut):
        parser.feed(data[start : start + cut])
    requests = list(parser.requests)
    refusals = [request.refusal for request in requests if request.refusal is not None]
    check(not any(request.refusal for request in requests[:-1]), "something was read behind a refusal")
    check(not refusals or parser.phase is Phase.CLOSED or requests[-1].is_last, "a refusal does not end it")
    for request in requests:
        check(len(request.body) <= BODY_BYTES_MAX, f"a body of {len(request.body)} bytes is kept")
        check(len(request.target) <= LIMITS.target_bytes or request.refusal is not None, "a long target is kept")
    good = [r for r in requests if r.refusal is None]
    return [(r.method, r.target, r.version, tuple(r.headers.items()), r.body) for r in good], bool(refusals)


class HttpHarness:
    """The first byte says what the rest is: a connection's bytes, or a JSON body."""

    STREAM, JSON = range(2)

    def seeds(self) -> list[bytes]:
        """Requests of every kind, pipelined, in chunks, smuggling and cut off; bodies of the vector routes."""
        post = b"POST /collections/a/points HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        streams = [
            b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\nGET /a%20?c=d HTTP/1.1\r\nhost: x\r\nauthorization: T t\r\n\r\n",
            post + b"content-length: 2\r\n\r\n{}",
            post + b"transfer-encoding: chunked\r\n\r\n2;x=y\r\n{}\r\n0\r\ntrailer: 1\r\n\r\n",
            post + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n{}",
            post + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\nPRI * HTTP/2.0\r\n\r\n",
            b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        ]
        return [*(bytes([self.STREAM]) + s for s in streams), *(bytes([self.JSON]) + body for body in BODIES)]

    def run(self, data: bytes) -> None:
        """Read it; nothing is raised but errors with a status, and requests do not depend on how they are cut."""
        kind, body = (data[0] % 2 if data else 0), data[1 : STREAM_BYTES_MAX + 1]
        if kind == self.JSON:
            self._json(body)
            return
        whole, is_refused = _read(body, max(1, len(body)))
        for cut in CUTS:
            found, other = _read(body, max(cut, len(body) // 64))
            # A piece that is refused takes nothing back, but a limit may be noticed a piece sooner or later.
            same = found == whole if is_refused == other else found[: len(whole)] == whole[: len(found)]
            check(same, f"other requests in pieces of {cut}")

    @staticmethod
    def _json(body: bytes) -> None:
        if is_too_deep(body, DEPTH_MAX):
            return
        request = HttpRequest(method="POST", path="/", params={}, query={}, headers={}, body=body, principal="local")
        for form in FORMS:
            try:
                value = request.json(form)
            except UsageError:
                continue
            msgspec.json.encode(value)
        try:
            matches = compile_filter(body)
        except FrysError:
            return
        check(isinstance(matches(b"1", PAYLOAD), bool), "a filter that says neither yes nor no")
