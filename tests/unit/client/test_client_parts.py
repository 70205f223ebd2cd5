"""The client's table, settings, bytes and batches, and what importing it costs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from client_rig import A, B, C, answer, known, placement
from hypothesis import given, settings
from hypothesis import strategies as st

from frys_node.base.errors import ConfigError, FrysError, RemoteError, UsageError
from frys_node.base.types import Address
from frys_node.base.units import partition_of, point_key, shard_of, slot_of
from frys_node.client import Client, SyncClient, cache, vectors, workflows
from frys_node.client.calls import Answer, Call, Failure, Loss, Plan, Steps, together
from frys_node.client.core import Core
from frys_node.client.pool import IDLE_S, Pool
from frys_node.client.settings import addresses_of, find_token
from frys_node.client.stream import Conversation, encode
from frys_node.client.table import Table, epoch_key

ROOT = Path(__file__).resolve().parents[3]


# ---------------------------------------------------------------------- the table


def test_holders_are_those_of_the_ring() -> None:
    """Keys, runs and points find the unit that the nodes place them in; an unknown collection has no owner."""
    table = Table(placement(collections={"notes": [[0, 1], [1, 2]]}))
    assert [server.address for server in table.holders(("cache", slot_of(b"foo")))] == [C, A]  # slot 12182 of 16384
    assert [server.address for server in table.holders(("run", "r1"))] == [(A, B, C, A)[partition_of("r1", 4)]]
    key = point_key(7)
    assert key is not None
    assert [server.address for server in table.holders(("point", "notes", key))] == [[A, B], [B, C]][shard_of(key, 2)]
    assert [server.address for server in table.holders(("collection", "notes"))] == [B]
    assert not table.holders(("point", "other", key))
    assert not table.holders(None)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"epoch": "x"}', placement("x.1"), placement(cache=[[0, 9]]), placement(cache=[])]
)
def test_a_table_that_does_not_add_up_is_refused(body: bytes) -> None:
    """No index of a stranger's answer leads anywhere."""
    with pytest.raises(RemoteError):
        Table(body)


@pytest.mark.parametrize(("text", "key"), [("1.5", (1, 5)), ("10.2", (10, 2)), ("", None), ("1", None), ("1.x", None)])
def test_epochs_are_compared_as_numbers(text: str, key: tuple[int, int] | None) -> None:
    """2.10 is after 2.9; what is no epoch is none."""
    assert epoch_key(text) == key


def test_a_node_on_the_loopback_of_another_machine_is_not_asked() -> None:
    """A remote client keeps to its seed when the nodes tell loopback addresses."""
    core = Core([Address("192.0.2.1", 8080)])
    core.learn(placement(), 0.0)
    assert core.pick(("cache", 0), 1.0) == Address("192.0.2.1", 8080)


# ---------------------------------------------------------------------- settings


def test_urls_are_read_once_each() -> None:
    """A scheme may be left out, and the port of HTTP is 80."""
    urls = ["http://a:81", "b:82/", "http://a:81/", "http://[::1]:83", "http://c"]
    found = [Address("a", 81), Address("b", 82), Address("::1", 83), Address("c", 80)]
    assert addresses_of(urls) == found
    assert addresses_of("a:81") == [Address("a", 81)]


@pytest.mark.parametrize("url", ["ftp://a", "redis://a", "http://a/v1", "http://u@a", "http://", "http://a:x", []])
def test_a_url_that_is_no_node_is_refused_with_the_fix(url: Any) -> None:
    """Other schemes, paths, users, no host: nothing is sent anywhere by mistake."""
    with pytest.raises(ConfigError) as caught:
        addresses_of(url)
    assert caught.value.hint or "URL" in caught.value.message


def test_the_token_is_found_in_the_order_that_is_written(tmp_path: Path) -> None:
    """The argument, the directory, the variable, the variable's directory; a directory without one is an error."""
    (tmp_path / "admin-token").write_text("from-dir\n")
    variables = {"FRYS_ADMIN_TOKEN": "from-variable", "FRYS_DATA_DIR": str(tmp_path)}
    assert find_token("given", tmp_path, variables) == "given"
    assert find_token(None, tmp_path, variables) == "from-dir"
    assert find_token(None, None, variables) == "from-variable"
    assert find_token(None, None, {"FRYS_DATA_DIR": str(tmp_path)}) == "from-dir"
    assert find_token(None, None, {}) == find_token(None, None, {"FRYS_DATA_DIR": "/nowhere"}) == ""
    with pytest.raises(ConfigError):
        find_token(None, tmp_path / "other", {})
    with pytest.raises(ConfigError):
        find_token("a\r\nb: c", None, {})


# ---------------------------------------------------------------------- bytes


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Frys-Epoch: 1.5\r\n\r\nhi"


def test_a_request_carries_the_token_and_its_length() -> None:
    """A PUT without a body says so."""
    sent = encode(Call("PUT", "/v1/cache/default/k", b"v", "text/plain", (("If-Match", "*"),)), "h:1", "t")
    head, _, body = sent.partition(b"\r\n\r\n")
    assert body == b"v"
    assert head.split(b"\r\n") == [
        b"PUT /v1/cache/default/k HTTP/1.1",
        b"Host: h:1",
        b"Authorization: Bearer t",
        b"Content-Type: text/plain",
        b"Content-Length: 1",
        b"If-Match: *",
    ]
    assert b"Content-Length: 0" in encode(Call("PUT", "/"), "h:1", "")


@settings(deadline=None)
@given(cut=st.integers(1, 200))
def test_answers_are_read_whatever_the_pieces(cut: int) -> None:
    """Two answers, one of them in chunks after a 100 Continue, arrive whole from pieces of any size."""
    chunked = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"
    data = OK + b"HTTP/1.1 100 Continue\r\n\r\n" + chunked
    talk = Conversation([Call("GET", "/")] * 2, A, "")
    for start in range(0, len(data), cut):
        talk.receive(data[start : start + cut])
    assert talk.outcomes == [
        Answer(200, {"content-length": "2", "x-frys-epoch": "1.5"}, b"hi"),
        Answer(404, {"transfer-encoding": "chunked"}, b"no"),
    ]
    assert talk.can_go_on


@pytest.mark.parametrize(
    ("data", "answered"),
    [
        (b"", 0),
        (b"SSH-2.0\r\n", 0),
        (b"HTTP/1.1 200 OK\r\n", 0),
        (OK.replace(b"200 OK", b"200 OK\r\nConnection: close"), 1),
        (OK + OK + OK, 2),
    ],
)
def test_a_connection_that_breaks_off_or_talks_nonsense_is_not_used_again(data: bytes, answered: int) -> None:
    """What was answered before counts; the rest has no answer."""
    talk = Conversation([Call("GET", "/")] * 2, A, "")
    for piece in (data, b"") if data else (b"",):
        if not talk.is_done:
            talk.receive(piece)
    assert not talk.can_go_on
    assert [isinstance(outcome, Answer) for outcome in talk.outcomes] == [True] * answered + [False] * (2 - answered)
    assert all(outcome.loss is Loss.BROKEN for outcome in talk.outcomes if isinstance(outcome, Failure))


def test_a_pool_keeps_the_last_used_and_drops_what_is_closed_or_old() -> None:
    """A connection that the node has closed, or would have, is not used again."""
    closed: list[str] = []
    dead: set[str] = set()
    pool: Pool[str] = Pool(closed.append, lambda wire: wire not in dead)
    for wire in ("old", "dead", "good"):
        pool.give(A, wire, 0.0 if wire == "old" else 50.0)
    dead.add("dead")
    assert pool.take(B, 60.0) is None
    assert pool.take(A, 60.0) == "good"
    assert pool.take(A, IDLE_S + 1.0) is None
    assert closed == ["dead", "old"]


# ---------------------------------------------------------------------- plans


def batch_of_cache(call: Call) -> Answer:
    """What a node answers to a batch: each value and version tells its key."""
    body = msgspec.json.decode(call.body)
    found = [{"key": k, "version": f"v{k}", "content_type": "text/plain", "value": k} for k in body.get("get", [])]
    put = [f"v{item['key']}" for item in body.get("put", [])]
    return Answer(200, {}, msgspec.json.encode({"get": found, "put": put, "deleted": 0}))


def carried_out(plan: Plan[Any], node: Any = batch_of_cache) -> tuple[Any, list[Call]]:
    """Turn a plan's crank against a made-up node; returns its value and the calls."""
    steps: Steps[Any] = Steps(plan)
    calls: list[Call] = []
    ask = steps.begin()
    while ask is not None:
        calls += ask.calls
        ask = steps.go_on(ask, [node(call) for call in ask.calls])
    return steps.value, calls


KEYS = st.lists(st.text(min_size=1, max_size=6).filter(lambda text: text.isprintable()), max_size=60)


@settings(max_examples=60, deadline=None)
@given(keys=KEYS)
def test_a_batch_is_split_by_owner_and_put_together_in_order(keys: Sequence[str]) -> None:
    """Each key comes back in its place, repeated ones too, and each group has one owner."""
    core = known()
    space = cache.Namespace(core, "default")
    found, calls = carried_out(cache.mget(space, keys))
    assert [entry.key for entry in found] == list(keys)
    asked = [msgspec.json.decode(call.body)["get"] for call in calls]
    assert sorted(key for group in asked for key in group) == sorted(set(keys))
    for group in asked:
        assert len({core.owner(space.place(key)) for key in group}) == 1
    versions, _ = carried_out(cache.mset(space, {key: key.encode() for key in keys}))
    assert list(versions.items()) == [(key, f"v{key}") for key in dict.fromkeys(keys)]


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 2**64 - 1), max_size=60))
def test_points_are_split_by_shard_and_the_last_of_equal_ids_wins(ids: Sequence[int]) -> None:
    """Each id is sent once, to one owner, with its last vector; what is read comes back in the order asked."""
    core = known(collections={"notes": [[0, 1], [1, 2], [2, 0]]})
    notes = vectors.Collection(core, "notes")
    points = [vectors.Point(id_, [float(number)]) for number, id_ in enumerate(ids)]
    count, calls = carried_out(vectors.upsert(notes, points), lambda call: Answer(200, {}, b'{"result":{}}'))
    sent = {point["id"]: point["vector"] for call in calls for point in msgspec.json.decode(call.body)["points"]}
    assert sent == {point.id: list(point.vector) for point in points}
    assert count == len(sent) == sum(len(msgspec.json.decode(call.body)["points"]) for call in calls)

    def stored(call: Call) -> Answer:
        rows = [{"id": id_} for id_ in reversed(msgspec.json.decode(call.body)["ids"]) if id_ % 2]
        return Answer(200, {}, msgspec.json.encode({"result": rows}))

    found, _ = carried_out(vectors.get(notes, ids), stored)
    assert [None if hit is None else hit.id for hit in found] == [id_ if id_ % 2 else None for id_ in ids]


def test_a_large_batch_is_cut_by_number_and_by_size() -> None:
    """No request is larger than a node takes, though all of it has one owner."""
    space = cache.Namespace(known(), "default")
    keys = [f"{{same}}{number}" for number in range(cache.BATCH_KEYS_MAX + 1)]
    assert [len(group) for group in space.split(keys)] == [cache.BATCH_KEYS_MAX, 1]
    sizes = dict.fromkeys(keys[:3], cache.BATCH_BYTES_MAX // 2)
    assert [len(group) for group in space.split(keys[:3], sizes)] == [2, 1]


def test_operations_of_a_pipeline_share_their_flights_and_keep_their_errors_apart() -> None:
    """All first calls are asked for at once; what fails has its error in its place."""
    space = cache.Namespace(known(), "default")

    def node(call: Call) -> Any:
        if call.path.endswith("bad"):
            return answer(400, "cache.invalid").error()
        return batch_of_cache(call) if call.method == "POST" else answer(404, "cache.miss")

    plans = [cache.get(space, "a"), cache.mget(space, ["b", "c"]), cache.put(space, "bad", b"")]
    steps: Steps[list[Any]] = Steps(together(plans))
    ask = steps.begin()
    assert ask is not None
    assert len(ask.calls) >= 3
    assert steps.go_on(ask, [node(call) for call in ask.calls]) is None
    missed, both, error = steps.value
    assert missed is None
    assert [entry.key for entry in both] == ["b", "c"]
    assert error.code == "cache.invalid"


def test_a_name_that_cannot_be_in_a_path_is_refused_here() -> None:
    """A namespace or collection with a slash, or a key that is no text, sends nothing."""
    with pytest.raises(UsageError):
        cache.Namespace(known(), "a/b")
    with pytest.raises(UsageError):
        vectors.Collection(known(), "")
    with pytest.raises(UsageError):
        carried_out(cache.get(cache.Namespace(known(), "default"), "\ud800"))


def test_methods_show_the_parameters_and_words_of_their_plans() -> None:
    """`help` and editors see what a caller may give, for the blocking client, the trio client and a pipeline."""
    with SyncClient("http://127.0.0.1:1") as client:
        for method in (client.cache().get, client.pipeline().cache().get, Client("http://127.0.0.1:1").cache().get):
            assert list(inspect.signature(method).parameters) == ["key", "consistency"]
            assert method.__name__ == "get"
            assert (method.__doc__ or "").startswith("Return the entry of a key")


def test_a_run_is_waited_for_while_its_owner_is_away() -> None:
    """Asked again after a pause when the owner is not there or answers early, until it has ended; errors of use are."""
    steps = Steps(workflows.wait(workflows.Runs(lambda: "x"), "r", timeout_s=9.0))
    away = answer(503, "routing.no_owner").error()
    running, ended = (
        Answer(200, {}, msgspec.json.encode({"id": "r", "status": status, "workflow": {}}))
        for status in ("running", "completed")
    )
    ask = steps.begin()
    pauses = []
    for result in (running, away, running, ended):
        assert ask is not None
        assert (ask.timeout_s, ask.calls[0].is_patient, ask.calls[0].place) == (9.0, True, ("run", "r"))
        pauses.append(ask.pause_s)
        ask = steps.go_on(ask, [result])
    assert ask is None
    assert steps.value.has_ended
    assert pauses == [0.0, workflows.ASK_PAUSE_S, workflows.WAIT_PAUSE_S, workflows.ASK_PAUSE_S]
    again = Steps(workflows.wait(workflows.Runs(lambda: "x"), "r"))
    ask = again.begin()
    assert ask is not None
    with pytest.raises(FrysError, match="no"):
        again.go_on(ask, [answer(404, "workflow.unknown_run").error()])


# ---------------------------------------------------------------------- imports


def loaded(statement: str) -> set[str]:
    """Names of the modules that a fresh process has after a statement."""
    code = f"{statement}\nimport sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    return set(run.stdout.split())


def test_importing_the_client_loads_neither_trio_nor_a_node() -> None:
    """The blocking client needs httptools, msgspec and mmh3, and nothing of what makes a node."""
    bare = loaded("import frys_node.client")
    assert not bare & {"trio", "msgspec", "httptools"}
    names = loaded("from frys_node.client import SyncClient; SyncClient('http://127.0.0.1:1')")
    heavy = {"trio", "asyncio", "numpy", "usearch", "cryptography", "OpenSSL", "ssl", "prometheus_client", "logging"}
    assert not names & heavy
    ours = {name for name in names if name.startswith(("frys_node.", "membership", "balancer", "snapshots"))}
    rooms = {name.split(".")[1] for name in ours if "." in name}
    assert rooms == {"base", "client", "transport", "wire"}
