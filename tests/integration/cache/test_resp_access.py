"""Redis clients with tokens: who may send what, in Redis' own words, and what becomes of those who may not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio

from frys_node.base.access import Level, Principal, Resource
from frys_node.base.types import Address
from frys_node.plugins.cache.resp.reader import Uniform
from frys_node.plugins.cache.resp.session import ATTACK_WORDS, HTTP_VERBS
from frys_node.plugins.cache.resp.table import COMMANDS
from frys_node.testing.access import FakeAccess
from frys_node.testing.rpc import open_rpc_network
from tests.integration.cache.resp_rig import TOKEN, Client, RespCluster, command
from tests.integration.cache.test_resp_server import ask, cuts, dial, hang_up, serving

__all__ = ["hang_up"]

READER = Principal("token:00000001", "read", token_id="00000001")
WRITER = Principal("token:00000002", "write", token_id="00000002")
SCOPED = Principal("token:00000003", "write", (), ("db1",), "00000003")
DOCS = Principal("token:00000004", "write", ("docs",), (), "00000004")
TOKENS = {"reader": READER, "writer": WRITER, "scoped": SCOPED, "docs": DOCS}

OK = b"+OK\r\n"
NO_AUTH = b"-NOAUTH Authentication required.\r\n"
WRONG = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
NO_KEYS = b"-NOPERM this user has no permissions to access one of the keys used as arguments\r\n"
NO_CHANNELS = b"-NOPERM this user has no permissions to access one of the channels used as arguments\r\n"


def no_run(name: str) -> bytes:
    """Redis' refusal of a command."""
    return f"-NOPERM this user has no permissions to run the '{name}' command\r\n".encode()


NEEDS = {
    "open": "auth hello quit reset",
    "any token": "client cluster command discard echo exec info multi ping punsubscribe readonly readwrite select "
    "unsubscribe unwatch watch",
    "read, no scopes": "config psubscribe pubsub subscribe",
    "write, no scopes": "publish",
    "read, its namespace": "dbsize exists expiretime get hexists hget hgetall hkeys hlen hmget hstrlen hvals mget "
    "pexpiretime pttl scan strlen ttl type",
    "write, its namespace": "append decr decrby del expire expireat flushdb getdel getex getset hdel hincrby hmset "
    "hset hsetnx incr incrby mset persist pexpire pexpireat psetex set setex setnx unlink",
}
"""What every command needs. A new one has to be put into its place here, too."""


async def test_every_command_has_a_declared_need() -> None:
    """Level and resource of each command of the table are those of the lists above, and none is missing."""
    kinds = {
        (Level.OPEN, Resource.SHARED): "open",
        (Level.READ, Resource.SHARED): "any token",
        (Level.READ, Resource.CLUSTER): "read, no scopes",
        (Level.WRITE, Resource.CLUSTER): "write, no scopes",
        (Level.READ, Resource.NAMESPACE): "read, its namespace",
        (Level.WRITE, Resource.NAMESPACE): "write, its namespace",
    }
    found: dict[str, list[str]] = {kind: [] for kind in NEEDS}
    for name, spec in COMMANDS.items():
        found[kinds[spec.need_of([name, b"x"])]].append(spec.name)
    assert {kind: " ".join(sorted(names)) for kind, names in found.items()} == {
        kind: " ".join(names.split()) for kind, names in NEEDS.items()
    }
    assert COMMANDS[b"CLIENT"].need_of([b"client", b"list"]) == (Level.READ, Resource.CLUSTER)


def words_of(name: str) -> list[bytes]:
    """A command with as many words as it takes."""
    spec = COMMANDS[name.upper().encode()]
    return [name.encode(), *[b"1"] * (abs(spec.arity) - 1)]


async def test_every_command_is_refused_to_exactly_those_who_may_not(nursery: trio.Nursery) -> None:
    """Command by command, for a stranger, a reader, a writer, and tokens for another database or none."""
    async with open_rpc_network() as network:
        rig = RespCluster("a", network, nursery)
        rig.tokens = {name.encode(): principal for name, principal in TOKENS.items()}
        for kind, names in NEEDS.items():
            for name in names.split():
                for who in ("stranger", "reader", "writer", "scoped", "docs"):
                    client = rig.nodes["a"].client(must_authenticate=True)
                    if who != "stranger":
                        assert await client.do("AUTH", who) == OK
                    answer = await client.do(*words_of(name))
                    is_scoped = who in ("scoped", "docs")
                    if kind == "open":
                        wanted = None
                    elif who == "stranger":
                        # Redis says of EXEC what the refusal means for the transaction.
                        abort = b"-EXECABORT Transaction discarded because of: "
                        wanted = NO_AUTH if name != "exec" else abort + NO_AUTH[1:]
                    elif kind.startswith("write") and who == "reader":
                        wanted = no_run(name)
                    elif is_scoped and kind.endswith("no scopes"):
                        wanted = no_run(name) if name == "config" else NO_CHANNELS
                    elif is_scoped and kind.endswith("its namespace"):
                        wanted = NO_KEYS
                    else:
                        wanted = None
                    if wanted is None:
                        assert not answer.startswith((b"-NOPERM", b"-NOAUTH Authentication")), (who, name, answer)
                    else:
                        assert answer == wanted, (who, name)


async def test_a_scope_is_a_database_and_holds_in_pipelines_and_transactions(nursery: trio.Nursery) -> None:
    """The token for `db1` works after SELECT 1 and nowhere else; uniform pipelines take no short cut around it."""
    async with open_rpc_network() as network:
        rig = RespCluster("a", network, nursery)
        rig.tokens = {name.encode(): principal for name, principal in TOKENS.items()}
        client = rig.nodes["a"].client(must_authenticate=True)
        assert await client.do("AUTH", "00000003", "scoped") == OK
        assert await client.do("SET", "k", "v") == NO_KEYS
        sets = b"".join(command("SET", f"k{n:02}", "v") for n in range(20))
        gets = b"".join(command("GET", f"k{n:02}") for n in range(20))
        assert await client.send(sets) == NO_KEYS * 20
        assert await client.send(gets) == NO_KEYS * 20
        assert await client.do("SELECT", 1) == OK
        assert await client.send(sets) == OK * 20
        assert await client.send(gets) == b"$1\r\nv\r\n" * 20
        assert await client.send(command("MULTI") + command("SELECT", 0) + command("GET", "k00") + command("EXEC")) == (
            OK + b"+QUEUED\r\n" * 2 + b"*2\r\n" + OK + NO_KEYS
        )
        reader = rig.nodes["a"].client(must_authenticate=True)
        assert (await reader.do("HELLO", 3, "AUTH", "default", "reader")).startswith(b"%7\r\n")
        assert await reader.send(sets) == no_run("set") * 20
        # Reading takes the short cut of uniform pipelines, and only where the scopes reach.
        pipeline = Uniform([b"k00", b"k01"], None)
        assert reader.session.plan_uniform(pipeline) is not None
        assert reader.session.plan_uniform(Uniform([b"k00"], [b"v"])) is None
        assert await client.do("SELECT", 1) == OK
        assert client.session.plan_uniform(pipeline) is not None
        assert await client.do("SELECT", 0) == OK
        assert client.session.plan_uniform(pipeline) is None
        assert await reader.send(command("MULTI") + command("SET", "a", "b") + command("EXEC")) == (
            OK + no_run("set") + b"-EXECABORT Transaction discarded because of previous errors.\r\n"
        )


async def logged_in(rig: RespCluster, token: str, *, must_authenticate: bool = True) -> Client:
    """A client that has shown a token."""
    client = rig.nodes["a"].client(must_authenticate=must_authenticate)
    assert await client.do("AUTH", token) == OK
    return client


async def test_a_revoked_token_is_nobodys_with_the_next_command(nursery: trio.Nursery) -> None:
    """Whole pipelines, uniform ones too, are refused then; on loopback such a client is not taken for a local one."""
    async with open_rpc_network() as network:
        rig = RespCluster("a", network, nursery)
        for must_authenticate in (True, False):
            rig.tokens = {b"writer": WRITER}
            client = await logged_in(rig, "writer", must_authenticate=must_authenticate)
            gets = b"".join(command("GET", f"k{n:02}") for n in range(20))
            assert await client.send(gets) == b"$-1\r\n" * 20
            rig.tokens = {}
            assert await client.send(gets) == NO_AUTH * 20
            assert await client.do("AUTH", "default", "writer") == WRONG
            assert await client.do("AUTH", TOKEN) == OK
            assert await client.send(gets) == b"$-1\r\n" * 20


@pytest.mark.parametrize("user", ["default", "00000002", "admin", "00000001", "Writer", ""])
async def test_the_user_name_is_default_or_the_tokens_id(nursery: trio.Nursery, user: str) -> None:
    """A good token under another's name is refused, as Redis refuses a good password under another name."""
    async with open_rpc_network() as network:
        rig = RespCluster("a", network, nursery)
        rig.tokens = {b"writer": WRITER, b"reader": READER}
        client = rig.nodes["a"].client(must_authenticate=True)
        good = user in ("default", "00000002", "admin")
        assert await client.do("AUTH", user, "writer") == (OK if good else WRONG)
        assert (await client.do("PING") == b"+PONG\r\n") is good


async def test_a_subscriber_is_cut_when_its_token_is_revoked(tmp_path: Path) -> None:
    """It sends nothing that could be refused: the node hangs up."""
    access = FakeAccess(writer=WRITER)
    async with serving(tmp_path, resp="0.0.0.0:0", access=access, request_s=0.3) as (kernel, address):
        stream = await dial(Address("127.0.0.1", address.port))
        await ask(stream, command("AUTH", "writer") + command("SUBSCRIBE", "c"), 35)
        access.tokens.clear()
        assert await stream.receive_some(100) == b""
        assert cuts(kernel) == {"token": 1}


async def test_a_stranger_that_shows_no_token_is_cut_in_time(tmp_path: Path) -> None:
    """Neither silence nor talk keeps a place for somebody who does not say who it is."""
    async with serving(tmp_path, resp="0.0.0.0:0", auth_s=0.3) as (kernel, address):
        here = Address("127.0.0.1", address.port)
        silent, talker, known = await dial(here), await dial(here), await dial(here)
        assert await ask(known, command("AUTH", TOKEN), 5) == OK
        assert await ask(talker, command("GET", "k"), len(NO_AUTH)) == NO_AUTH
        assert (await silent.receive_some(100), await talker.receive_some(100)) == (b"", b"")
        assert cuts(kernel) == {"auth": 2}
        assert await ask(known, command("PING"), 7) == b"+PONG\r\n"


async def test_one_address_cannot_take_every_place(tmp_path: Path) -> None:
    """The limit by address holds, and places come back."""
    async with serving(tmp_path, clients_per_address=1) as (kernel, address):
        first = await dial(address)
        assert await ask(first, command("PING"), 7) == b"+PONG\r\n"
        assert await (await dial(address)).receive_some(100) == b"-ERR max number of clients reached\r\n"
        assert cuts(kernel) == {"address": 1}
        assert await ask(first, command("QUIT"), 100) == OK
        assert await ask(await dial(address), command("PING"), 7) == b"+PONG\r\n"


async def test_a_client_over_its_pace_waits_and_gets_every_answer(tmp_path: Path) -> None:
    """Nothing is refused or lost: a burst is served at once, what is over it only when the bucket has filled."""
    async with serving(tmp_path, requests_per_s=200.0, requests_burst=10, pipelined=10) as (_, address):
        stream = await dial(address)
        began_s = trio.current_time()
        assert await ask(stream, command("PING") * 40, 280) == b"+PONG\r\n" * 40
        assert trio.current_time() - began_s >= 30 / 200


async def test_a_stranger_behind_the_same_address_locks_nobody_out(tmp_path: Path) -> None:
    """A thousand of its commands take no more than the bucket holds, and a good token is looked at all the same."""
    async with serving(
        tmp_path,
        resp="0.0.0.0:0",
        strangers_per_s=0.01,
        strangers_burst=3,
        auth_s=15.0,
        access=FakeAccess(writer=WRITER),
    ) as (_, address):
        here = Address("127.0.0.1", address.port)
        stranger = await dial(here)
        assert await ask(stranger, command("PING") * 1_024, len(NO_AUTH) * 3) == NO_AUTH * 3
        for shown in (command("AUTH", "writer"), command("HELLO", "2", "AUTH", "default", "writer")):
            honest = await dial(here)
            with trio.fail_after(5):
                await ask(honest, shown + command("PING"), 12)
        guesser = await dial(here)
        await guesser.send_all(command("AUTH", "guess") * 2)
        with trio.move_on_after(0.3) as scope:
            await guesser.receive_some(100)
        assert scope.cancelled_caught


async def test_subscriptions_end_with_the_token_that_they_were_made_with(nursery: trio.Nursery) -> None:
    """In RESP3 a subscriber may show another token: one that has no channels takes them away, another keeps them."""
    async with open_rpc_network() as network:
        rig = RespCluster("a", network, nursery)
        rig.tokens = {name.encode(): principal for name, principal in TOKENS.items()}
        client = rig.nodes["a"].client(must_authenticate=True)
        await client.do("HELLO", 3, "AUTH", "default", "reader")
        await client.do("SUBSCRIBE", "c")
        assert await client.do("AUTH", "writer") == OK
        assert client.session.subscriptions == 1
        assert await client.do("AUTH", "scoped") == OK
        assert client.session.subscriptions == 0
        await (await logged_in(rig, "writer")).do("PUBLISH", "c", "news")
        assert client.pushed == []


async def test_a_subscriber_that_has_noticed_the_revocation_is_cut_all_the_same(tmp_path: Path) -> None:
    """Its own command finds out first that the token does not stand: the subscriptions do not live on for that."""
    access = FakeAccess(writer=WRITER)
    async with serving(tmp_path, resp="0.0.0.0:0", access=access, request_s=0.3, auth_s=15.0) as (kernel, address):
        stream = await dial(Address("127.0.0.1", address.port))
        await ask(stream, command("HELLO", "3", "AUTH", "default", "writer") + command("SUBSCRIBE", "c"), 35)
        access.tokens.clear()
        await stream.send_all(command("PING"))
        while await stream.receive_some(1_000):
            continue
        assert cuts(kernel) == {"token": 1}


async def test_info_tells_a_scoped_token_of_its_own_databases_alone(tmp_path: Path) -> None:
    """How many keys another database has, and how long they live, is nobody's business without a scope for it."""
    access = FakeAccess(writer=WRITER, scoped=SCOPED)
    async with serving(tmp_path, resp="0.0.0.0:0", access=access) as (_, address):
        stream = await dial(Address("127.0.0.1", address.port))
        sets = command("SET", "k", "v") + command("SELECT", 1) + command("SET", "k", "v")
        await ask(stream, command("AUTH", "writer") + sets, 20)
        await stream.send_all(command("INFO", "keyspace"))
        whole = await stream.receive_some(10_000)
        await ask(stream, command("AUTH", "scoped"), 5)
        await stream.send_all(command("INFO", "keyspace"))
        own = await stream.receive_some(10_000)
        assert (b"db0:" in whole, b"db1:" in whole) == (True, True)
        assert (b"db0:" in own, b"db1:" in own) == (False, True)


async def test_strangers_that_fill_the_places_turn_themselves_out(tmp_path: Path) -> None:
    """Whoever has logged in keeps its place, and the next one who does gets that of the oldest stranger."""
    async with serving(tmp_path, resp="0.0.0.0:0", clients=4) as (kernel, address):
        here = Address("127.0.0.1", address.port)
        known = await dial(here)
        assert await ask(known, command("AUTH", TOKEN), 5) == OK
        silent = [await dial(here) for _ in range(6)]
        newcomer = await dial(here)
        assert await ask(newcomer, command("AUTH", TOKEN) + command("PING"), 12) == OK + b"+PONG\r\n"
        assert [await stream.receive_some(100) for stream in silent[:5]] == [b""] * 5
        assert await ask(known, command("PING"), 7) == b"+PONG\r\n"
        assert cuts(kernel) == {"strangers": 5}


HTTP = [
    b"GET / HTTP/1.1\r\nHost: localhost:6379\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\nSET k v\r\n",
    b"OPTIONS / HTTP/1.1\r\n\r\n",
    b"PUT /k HTTP/1.0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"post / x\r\n",
    b"Host: localhost\r\nSET k v\r\n",
]


@pytest.mark.parametrize("sent", HTTP)
@pytest.mark.parametrize("bound", ["127.0.0.1:0", "0.0.0.0:0"])
async def test_http_is_hung_up_on_and_logged_in_redis_words(
    tmp_path: Path, bound: str, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """No command of its body is carried out, before authentication or without; one line a minute says so."""
    with caplog.at_level(logging.WARNING):
        async with serving(tmp_path, resp=bound) as (kernel, address):
            here = Address("127.0.0.1", address.port)
            for _ in range(2):
                assert await ask(await dial(here), sent + b"SET k v\r\n", 1_000) == b""
            assert cuts(kernel) == {"http": 2}
            stream = await dial(here)
            if bound.startswith("0"):
                assert await ask(stream, command("AUTH", TOKEN), 5) == OK
            assert await ask(stream, command("GET", "k"), 5) == b"$-1\r\n"
    lines = [record for record in caplog.records if "resp_http_refused" in record.getMessage()]
    assert len(lines) == 1
    assert "Possible SECURITY ATTACK detected" in str(vars(lines[0]))


async def test_words_of_http_are_no_commands_that_anybody_needs() -> None:
    """GET is a command and is refused only as a request line, which could never be one."""
    assert not ATTACK_WORDS & COMMANDS.keys()
    assert {b"GET"} == HTTP_VERBS & COMMANDS.keys()
    assert not COMMANDS[b"GET"].takes(3)
