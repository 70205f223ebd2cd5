"""Real processes whose HTTP wants tokens: every route refuses whom it should, and a revocation holds everywhere."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from frys_node.demo.cluster import NodeProcess
from tests.e2e.e2e_clusters import ring
from tests.e2e.test_e2e_cluster import frys, wait

pytestmark = pytest.mark.slow

SETTINGS = {"FRYS_CLUSTER_PARTITIONS": "8", "FRYS_PLUGINS_NETWORK_LIMITS_STRANGERS_PER_S": "0"}
GOLDEN = Path(__file__).parents[1] / "golden" / "routes.txt"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    """Three nodes that serve HTTP on every address."""
    home = tmp_path_factory.mktemp("access")
    made = [NodeProcess(n, home / n, settings=SETTINGS | {"XDG_STATE_HOME": str(home / "state")}) for n in "abc"]
    for node in made:
        node.http_host = "0.0.0.0"
    made[0].start()
    try:
        wait("a ready", lambda: made[0].is_ready)
        for node in made[1:]:
            node._settings["FRYS_TOKEN"] = (made[0].data_dir / "join-token").read_text().strip()
            node.start([made[0].bind])
        for node in made:
            wait(f"{node.name} ready", lambda node=node: node.is_ready)
            node.admin_token = (made[0].data_dir / "admin-token").read_text().strip()
        # Nodes are ready before they are on the ring: the record is stable between two joins as well.
        wait("all on the ring", lambda: len(ring(made[0])) == len(made))
        yield made
    finally:
        for node in made:
            node.stop()


def verb(node: NodeProcess, *arguments: str) -> dict[str, Any]:
    """Run a verb and return what it printed."""
    done = frys(*arguments, "--json", "--data-dir", str(node.data_dir), cwd=node.home)
    assert done.returncode == 0, (done, node.log_tail(20))
    body: dict[str, Any] = json.loads(done.stdout)
    return body


def ask(node: NodeProcess, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    """Send one request with exactly these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=20)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def status(node: NodeProcess, token: str, method: str = "GET", path: str = "/v1/members") -> int:
    """Ask with a token."""
    return ask(node, method, path, authorization=f"Bearer {token}")[0]


def test_each_route_refuses_everybody_whom_its_row_of_the_table_does_not_allow(nodes: list[NodeProcess]) -> None:
    """Against a live node: the table is complete, and 401 and 403 are what it says, with one body each."""
    a = nodes[0]
    listed = a.call("GET", "/v1/routes")["routes"]
    rows = [(r["method"], r["path"], r["role"], r["resource"]) for r in listed]
    golden = [tuple(line.split()) for line in GOLDEN.read_text().splitlines()]
    assert sorted(rows) == sorted(golden), "a route is new or gone: declare it in tests/golden/routes.txt"
    made = {role: verb(a, "token", "create", "--role", role) for role in ("read", "write")}
    scoped = verb(a, "token", "create", "--role", "write", "--collection", "docs", "--namespace", "mine")
    ended = verb(a, "token", "create", "--role", "admin")
    verb(a, "token", "revoke", ended["id"])
    strangers = {
        "nobody": {},
        "cookie": {"cookie": f"token={ended['token']}; Authorization=Bearer {a.admin_token}"},
        "basic": {"authorization": f"Basic {a.admin_token}"},
        "revoked": {"authorization": f"Bearer {ended['token']}"},
        "unknown": {"authorization": "Bearer frys_00000000_" + "a" * 52},
        "two": {"authorization": f"Bearer {a.admin_token}", "api_key": "frys_00000000_" + "a" * 52},
    }
    bodies: dict[int, set[bytes]] = {401: set(), 403: set()}
    for method, template, role, resource in rows:
        path = template.replace("{rest...}", "x/y/z").replace("{key...}", "k")
        path = path.replace("{collection}", "other").replace("{namespace}", "other")
        path = path.replace("{name}", "nobody").replace("{id}", "00000000").replace("{action}", "load")
        path = path.replace("{key}", "k")
        if role == "open":
            assert ask(a, method, path)[0] == 200, path
            continue
        for name, headers in strangers.items():
            code, body = ask(a, method, path, **headers)
            assert code == 401, (name, method, path)
            bodies[401].add(body)
        refused = {"read": role in ("write", "admin"), "write": role == "admin", "scoped": resource != "shared"}
        tokens = {"read": made["read"], "write": made["write"], "scoped": scoped}
        for name in [name for name, is_refused in refused.items() if is_refused]:
            code, body = ask(a, method, path, authorization=f"Bearer {tokens[name]['token']}")
            assert code == 403, (name, method, path)
            bodies[403].add(body)
    assert (len(bodies[401]), len(bodies[403])) == (1, 3)
    assert all(b"frys-node token create" in body for found in bodies.values() for body in found)
    assert status(a, scoped["token"], "PUT", "/v1/cache/mine/k") == 200
    assert status(a, scoped["token"], "PUT", "/v1/cache/%6dine/k") == 200
    assert status(a, scoped["token"], "PUT", "/v1/cache/mine%2F..%2Fother/k") == 403
    assert status(a, scoped["token"], "GET", "/collections/docs") == 404
    assert status(a, made["read"]["token"], "GET", "/v1/cache/mine/k?lease=5s") == 200
    assert status(a, made["read"]["token"], "GET", "/v1/cache/mine/none?lease=5s") == 403
    assert ask(a, "GET", "/collections", api_key=made["read"]["token"])[0] == 200


def test_a_revocation_holds_at_every_node_at_once_and_at_one_that_was_down_when_it_is_back(
    nodes: list[NodeProcess],
) -> None:
    """Made through one node, revoked through another, with the issuer's answer saying how many know it."""
    _, b, c = nodes
    made = verb(b, "token", "create", "--role", "read", "--ttl", "30d")
    assert (made["told"], made["members"]) == (3, 3)
    assert [status(node, made["token"]) for node in nodes] == [200] * 3
    gone = verb(c, "token", "revoke", made["id"])
    assert (gone["told"], gone["members"]) == (3, 3)
    assert [status(node, made["token"]) for node in nodes] == [401] * 3
    other = verb(b, "token", "create", "--role", "read")
    c.stop()
    verb(b, "token", "revoke", other["id"])
    c.start()
    wait("c ready", lambda: c.is_ready)
    wait("c knows", lambda: status(c, other["token"]) == 401)
    shown = frys("token", "list", "--data-dir", str(b.data_dir), cwd=b.home).stdout
    assert "joining" in shown
    assert other["id"] not in shown
    assert not [n for n in nodes for t in (made, other) if t["token"].encode() in (n.home / "log").read_bytes()]


def test_tokens_outlive_restarts_and_the_move_of_the_issuers_role(nodes: list[NodeProcess]) -> None:
    """A token of the first issuer works after `b` has the role and all have been restarted, and `b` revokes it."""
    a, b, _ = nodes
    made = verb(a, "token", "create", "--role", "write")
    done = frys("issuer", "handover", "b", "--data-dir", str(a.data_dir), cwd=a.home)
    assert done.returncode == 0, done
    for node in nodes:
        node.stop()
    for node in nodes:
        node.start()
    for node in nodes:
        wait(f"{node.name} ready", lambda node=node: node.is_ready)
    wait("works everywhere", lambda: [status(node, made["token"]) for node in nodes] == [200] * 3)
    wait("b reaches all", lambda: verb(b, "token", "create", "--role", "read")["told"] == 3)
    verb(a, "token", "revoke", made["id"])
    wait("refused everywhere", lambda: [status(node, made["token"]) for node in nodes] == [401] * 3)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--role", "admin", "--collection", "docs"), "admin"),
        (("--role", "node", "--namespace", "x"), "join token has no scopes"),
        (("--role", "read", "--uses", "3"), "only join tokens"),
        (("--role", "read", "--ttl", "4000d"), "10 years"),
    ],
)
def test_tokens_that_make_no_sense_are_refused_with_the_fix(
    nodes: list[NodeProcess], arguments: tuple[str, ...], hint: str
) -> None:
    """The command line says what is wrong with what was asked for, and makes nothing."""
    a = nodes[0]
    done = frys("token", "create", *arguments, "--data-dir", str(a.data_dir), cwd=a.home)
    assert done.returncode != 0
    assert hint in done.stderr
