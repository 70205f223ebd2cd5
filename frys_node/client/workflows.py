"""What can be asked of workflows and of the cluster itself, as plans.

Sans-I/O. A run's id is made here, so that a start whose answer was lost can be sent again: it attaches to the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from frys_node.base.errors import FrysError, NotReady, RoutingError
from frys_node.client.calls import Answer, Ask, Call, Plan, answer

WAIT_PAUSE_S = 0.5
"""Pause before a run whose owner is away is asked for again."""

ASK_PAUSE_S = 0.05
"""Pause before it is asked for again otherwise: a node that is about to stop answers at once."""

FINAL = frozenset({"completed", "faulted", "cancelled"})


class RunFailed(FrysError):
    """The run ended without a result: it faulted, was cancelled, or cannot go on. `run` has its error."""

    code = "client.run_failed"
    run: Run


class Run(msgspec.Struct, frozen=True):
    """A run as its owner shows it; docs/client.md lists what else there is in `GET /v1/runs/{id}`."""

    id: str
    status: str
    """``pending running waiting suspended completed faulted cancelled stalled``."""
    workflow: dict[str, str]
    input: Any = None
    output: Any = None
    error: dict[str, Any] | None = None
    owner: str = ""
    epoch: str = ""
    tasks: list[dict[str, Any]] | None = None

    @property
    def has_ended(self) -> bool:
        """True once nothing about it will change."""
        return self.status in FINAL


class Runs:
    """What plans of workflows need."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self.new_id = new_id


def start(
    runs: Runs,
    workflow: str,
    input: Any = None,  # noqa: A002 (the field's name in the API)
    *,
    id: str | None = None,  # noqa: A002
    version: str = "",
    wait: bool = False,
) -> Plan[Run]:
    """Start a run of ``name`` or ``namespace/name``, or attach to the one that has this id, workflow and input.

    With `wait` the answer comes when it has ended, or after the node's longest wait; see also `result`.

    Raises:
        RunConflict: Another workflow or input has this id.
    """
    namespace, _, name = workflow.rpartition("/")
    run = id or runs.new_id()
    ref = {"namespace": namespace or "default", "name": name, "version": version}
    body = msgspec.json.encode({"workflow": ref, "input": input, "id": run, "wait": wait})
    return _run((yield from answer(Call("POST", "/v1/runs", body, place=("run", run), is_patient=wait))).body)


def show(runs: Runs, id: str) -> Plan[Run]:  # noqa: A002
    """Return a run as it is now."""
    del runs
    return _run((yield from answer(_about("GET", id))).body)


def wait(runs: Runs, id: str, *, timeout_s: float = 3_600.0) -> Plan[Run]:  # noqa: A002
    """Return a run once it has ended or stalled, asking again as often as a node's longest wait demands.

    While the owner of the run is away it is asked for every half second.

    Raises:
        DeadlineExceeded: It has not ended within `timeout_s`. It goes on.
    """
    del runs
    ask = Ask([_about("GET", id, "?wait=true")._replace(is_patient=True)], timeout_s)
    while True:
        try:
            (found,) = yield ask
        except (RoutingError, NotReady):
            # Its owner is on its way down or up: the run goes on when it is back.
            ask = ask._replace(pause_s=WAIT_PAUSE_S)
            continue
        assert isinstance(found, Answer)
        run = _run(found.body)
        if run.has_ended or run.status == "stalled":
            return run
        ask = ask._replace(pause_s=ASK_PAUSE_S)


def result(runs: Runs, id: str, *, timeout_s: float = 3_600.0) -> Plan[Any]:  # noqa: A002
    """Return a run's output once it has ended.

    Raises:
        RunFailed: It ended otherwise, or cannot go on.
        DeadlineExceeded: It has not ended within `timeout_s`. It goes on.
    """
    run = yield from wait(runs, id, timeout_s=timeout_s)
    if run.status == "completed":
        return run.output
    text = (run.error or {}).get("message", "")
    failure = RunFailed(f"run {run.id} is {run.status}" + (f": {text}" if text else ""))
    failure.run = run
    raise failure


def signal(runs: Runs, id: str, name: str, value: Any = None, *, signal_id: str | None = None) -> Plan[None]:  # noqa: A002
    """Deliver a signal to a run, once: the same signal id again does nothing."""
    body = msgspec.json.encode({"value": value, "id": signal_id or runs.new_id()})
    call = _about("POST", id, f"/signals/{quote(name, safe='')}")
    yield from answer(call._replace(body=body))


def cancel(runs: Runs, id: str, *, reason: str = "") -> Plan[Run]:  # noqa: A002
    """Ask a run to cancel; one that has ended stays as it is."""
    del runs
    body = msgspec.json.encode({"reason": reason} if reason else {})
    return _run((yield from answer(_about("POST", id, "/cancel")._replace(body=body))).body)


def listing(runs: Runs, *, workflow: str = "", status: str = "", limit: int = 100) -> Plan[list[Run]]:
    """Return runs of the whole cluster, newest first, without their inputs and tasks."""
    del runs
    query = urlencode({"workflow": workflow, "status": status, "limit": limit})
    body = (yield from answer(Call("GET", f"/v1/runs?{query}"))).json()
    return msgspec.convert(body["runs"], list[Run])


def _about(method: str, run: str, rest: str = "") -> Call:
    return Call(method, f"/v1/runs/{quote(run, safe='')}{rest}", place=("run", run))


def _run(body: bytes) -> Run:
    return msgspec.json.decode(body, type=Run)


# ---------------------------------------------------------------------- the cluster


def members(nothing: None) -> Plan[list[dict[str, Any]]]:
    """Return every member that a node knows, as `GET /v1/members` shows it."""
    del nothing
    return list((yield from answer(Call("GET", "/v1/members"))).json()["members"])


def status(nothing: None) -> Plan[dict[str, Any]]:
    """Return what one node, whichever is asked, says of itself."""
    del nothing
    return dict((yield from answer(Call("GET", "/v1/status"))).json())
