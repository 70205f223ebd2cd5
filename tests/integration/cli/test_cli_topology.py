"""`node remove`, `issuer`, `collection update` and `ring set`, as processes, against answers of a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from balancer.errors import LossNeeded, PromotionFailed
from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.http import HttpRequest, HttpResponse
from frys_node.kernel.services.members import MEMBERS, Condition, MemberView, Status
from frys_node.testing.services import FakeHttp
from tests.integration.cli.cli_rig import command_line

REMOVAL = {"name": "d", "id": "id-d", "state": "unremoved", "blocked": [], "partitions": 3, "waits_for": []}
ISSUER = {
    "name": "a",
    "issuer": "id-a",
    "term": 1,
    "epoch": "1.9",
    "answers": True,
    "can_admit": True,
    "standby": ["b"],
    "successor": "",
    "promised": "",
}


class Answers:
    """Routes that answer from lists, and keep what they were asked."""

    def __init__(self) -> None:
        self.routes = FakeHttp()
        self.asked: list[tuple[str, str, Any]] = []

    def give(self, method: str, path: str, *answers: Any) -> None:
        """Answer with these one after the other, the last for ever; errors are raised."""
        left = list(answers)

        async def answer(request: HttpRequest) -> HttpResponse:
            self.asked.append((method, request.path, request.json(dict[str, Any]) if request.body else None))
            found = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(found, Exception):
                raise found
            return HttpResponse.json(found)

        self.routes.route(method, path, answer, scope="admin")


async def test_a_removal_is_followed_to_its_end_and_says_what_waits_for_the_disk(tmp_path: Path) -> None:
    """What it waits for goes to stderr line by line; the outcome names the partitions and the way to give them up."""
    answers = Answers()
    path = "/v1/members/d/remove"
    answers.give("POST", path, REMOVAL | {"state": "waiting"})
    moving = REMOVAL | {"state": "moving", "waits_for": ["c: 3 units to take"]}
    answers.give("GET", path, moving, moving, REMOVAL | {"state": "removed"})
    async with command_line(tmp_path, answers.routes, "/v1/members/d") as cli:
        done = await cli.run("node", "remove", "d")
        assert (done.code, done.err.count("c: 3 units to take")) == (0, 1), done
        assert "d is removed; 3 workflow partitions wait for its disk" in done.out
        assert "node remove d --accept-loss" in done.out
        assert answers.asked[0] == ("POST", path, {"accept_loss": False})


async def test_a_removal_that_loses_something_is_an_error_that_names_units_and_the_fix(tmp_path: Path) -> None:
    """Refused at once, or given up on the way: exit 1, nothing is claimed."""
    answers = Answers()
    path = "/v1/members/d/remove"
    refusal = LossNeeded("d cannot be removed without loss: too few living members of cache/1", hint="--accept-loss")
    answers.give("POST", path, refusal, REMOVAL | {"state": "waiting"})
    answers.give("GET", path, REMOVAL | {"blocked": [f"cache/{number}" for number in range(20)]})
    async with command_line(tmp_path, answers.routes, "/v1/members/d") as cli:
        refused = await cli.run("node", "remove", "d")
        assert (refused.code, "cache/1 [routing.loss]" in refused.err) == (1, True), refused
        given_up = await cli.run("node", "remove", "d")
        assert given_up.code == 1
        assert "cache/7 and 12 more" in given_up.err
        assert "--accept-loss" in given_up.err


async def test_giving_data_up_wants_somebody_to_type_it(tmp_path: Path) -> None:
    """Without a terminal and without --yes nothing is asked of the node but what would be lost."""
    answers = Answers()
    path = "/v1/members/d/remove"
    answers.give("GET", path, REMOVAL | {"state": "removed", "partitions": 3})
    answers.give("POST", path, REMOVAL | {"state": "removed", "partitions": 0})
    answers.give("POST", "/v1/issuer/promote", ISSUER | {"term": 2})
    async with command_line(tmp_path, answers.routes, "/v1/members/d", "/v1/issuer") as cli:
        refused = await cli.run("node", "remove", "d", "--accept-loss")
        assert refused.code == 2
        assert "3 workflow partitions" in refused.err
        assert all(method == "GET" for method, _path, _body in answers.asked)
        done = await cli.run("node", "remove", "d", "--accept-loss", "--yes")
        assert (done.code, done.out) == (0, "d is removed\n")
        assert (await cli.run("issuer", "promote", "--force")).code == 2
        assert (await cli.run("issuer", "promote", "--destroyed", "b")).code == 2
        assert (await cli.run("issuer", "promote", "--force", "--destroyed", "b")).code == 2
        forced = await cli.run("issuer", "promote", "--force", "--destroyed", "b", "--destroyed", "c", "--yes")
        assert forced.code == 0, forced
        assert answers.asked[-1] == ("POST", "/v1/issuer/promote", {"destroyed": ["b", "c"]})


async def test_the_issuer_is_shown_with_what_it_cannot_do(tmp_path: Path) -> None:
    """One that is silent, one without the authority's key, a successor that has not taken over, an open promise."""
    answers = Answers()
    answers.give(
        "GET",
        "/v1/issuer",
        ISSUER,
        ISSUER | {"answers": False, "can_admit": None, "standby": []},
        ISSUER | {"can_admit": False, "successor": "b", "promised": "7 of id-c"},
    )
    answers.give("POST", "/v1/issuer/promote", PromotionFailed("not enough nodes promised: x", hint="start one"))
    answers.give("POST", "/v1/issuer/handover", ISSUER | {"name": "b", "term": 2})
    async with command_line(tmp_path, answers.routes, "/v1/issuer") as cli:
        shown = await cli.run("issuer")
        assert shown.out == "a writes the topology record: term 1, epoch 1.9\nkeep the authority too: b\n"
        assert "frys-node issuer promote, on the node" in (await cli.run("issuer", "show")).out
        third = (await cli.run("issuer", "show")).out
        assert "no node can join" in third
        assert "b was named to take over" in third
        assert "promised term 7 of id-c" in third
        failed = await cli.run("issuer", "promote")
        assert (failed.code, "[routing.promotion]" in failed.err) == (1, True), failed
        assert (await cli.run("issuer", "handover", "b", "--json")).json()["term"] == 2
        assert answers.asked[-1][2] == {"to": "b"}


async def test_a_factor_is_followed_until_it_is_in_force(tmp_path: Path) -> None:
    """Of a collection and of the cluster."""
    answers = Answers()
    before = {"replication_factor": 3, "next": 1, "collections": {"c": {"replication_factor": 3, "next": 1}}}
    after = {"replication_factor": 1, "next": 1, "collections": {"c": {"replication_factor": 1, "next": 1}}}
    answers.give("PUT", "/v1/replication/factor", {})
    answers.give("GET", "/v1/replication/factor", before, after, before, after)
    async with command_line(tmp_path, answers.routes, "/v1/replication/factor") as cli:
        done = await cli.run("collection", "update", "c", "--replication-factor", "1")
        assert (done.code, done.out) == (0, "collection c has replication factor 1\n")
        assert answers.asked[0][2] == {"collection": "c", "replication_factor": 1}
        done = await cli.run("ring", "set", "--replication-factor", "1")
        assert (done.code, done.out) == (0, "the cluster has replication factor 1\n")


class _Table:
    """A member table that a test writes."""

    def __init__(self, **statuses: Status) -> None:
        self.statuses = statuses

    def all(self) -> list[MemberView]:
        """Everybody."""
        address = Address("127.0.0.1", 7946)
        return [
            MemberView(
                name=name,
                id=NodeId(name * 32),
                address=address,
                status=status,
                condition=Condition.OK,
                incarnation=1,
                boot=1,
                tags={},
            )
            for name, status in self.statuses.items()
        ]


async def test_the_last_node_of_a_cluster_leaves_only_when_that_is_typed(tmp_path: Path) -> None:
    """Nobody takes over what it holds; with another member, even a dead one, the node itself decides."""
    answers, table = Answers(), _Table(a=Status.LEFT, b=Status.ALIVE)
    answers.give("POST", "/v1/leave", {"name": "b"})
    answers.give("GET", "/v1/leave", {"state": "", "error": "it waits", "code": "routing.error", "hint": ""})
    async with command_line(tmp_path, answers.routes, "/v1/leave") as cli:
        cli.kernel.services.provide(MEMBERS, table)  # type: ignore[arg-type]
        refused = await cli.run("leave")
        assert (refused.code, "b is the last node of its cluster" in refused.err) == (2, True), refused
        assert answers.asked == []
        confirmed = await cli.run("leave", "--yes")
        assert (confirmed.code, "b cannot leave: it waits" in confirmed.err) == (1, True), confirmed
        assert ("POST", "/v1/leave", None) in answers.asked
        table.statuses["c"] = Status.DEAD
        several = await cli.run("leave")
        assert (several.code, "b cannot leave: it waits" in several.err) == (1, True), several
