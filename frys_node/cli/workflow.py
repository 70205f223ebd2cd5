"""List workflows, start runs and look at them, through any node."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any
from urllib.parse import quote, urlencode

from frys_node.base.errors import DeadlineExceeded, UsageError
from frys_node.cli import arguments as given
from frys_node.cli.admin import AdminClient, add_common, show, table
from frys_node.cli.terminal import escaped

ENDED = frozenset(("completed", "faulted", "cancelled", "stalled"))
"""Statuses that waiting changes no more; a stalled run wants an operator."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", required=True)
    add_common(actions.add_parser("list", help="workflows that this node knows"))
    runs = actions.add_parser("runs", help="runs in the whole cluster, newest first")
    runs.add_argument("--workflow", metavar="NAME", help="only runs of this workflow")
    runs.add_argument("--status", help="only runs in this state, such as running or faulted")
    runs.add_argument("--limit", type=int, default=100, help="most runs to show (default 100)")
    add_common(runs)
    start = actions.add_parser("start", help="start a run")
    start.add_argument("name", type=given.name, help="workflow name, or namespace/name")
    start.add_argument("--version", default="", help="a version other than the newest")
    start.add_argument("--input", default="null", help="JSON, or '-' for standard input")
    start.add_argument("--id", type=given.name, help="run id: starting the same id again attaches to that run")
    start.add_argument("--wait", action="store_true", help="wait for the end and print the result")
    add_common(start)
    for name, text in (("show", "one run"), ("result", "a run's output, waiting for it"), ("cancel", "cancel a run")):
        sub = actions.add_parser(name, help=text)
        sub.add_argument("id", type=given.name)
        add_common(sub)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    client = AdminClient(arguments)
    if arguments.action == "list":
        body = client.call("GET", "/v1/workflows")
        rows = [(w["namespace"], w["name"], w["version"]) for w in body["workflows"]]
        return show(arguments, body, table(rows, ("NAMESPACE", "NAME", "VERSION")))
    if arguments.action == "runs":
        wanted = {"limit": arguments.limit, "workflow": arguments.workflow or "", "status": arguments.status or ""}
        body = client.call("GET", f"/v1/runs?{urlencode(wanted)}")
        runs = [
            (r["id"], r["workflow"]["name"], r["status"], r["owner"], r["created_at"][:19] + "Z") for r in body["runs"]
        ]
        text = table(runs, ("ID", "WORKFLOW", "STATUS", "OWNER", "CREATED"))
        if body.get("missing"):
            text += f"\nno answer from: {', '.join(escaped(body['missing']))}"
        return show(arguments, body, text)
    if arguments.action == "start":
        body = client.call("POST", "/v1/runs", _start_body(arguments))
        return _show_run(arguments, _ended(client, body["id"]) if arguments.wait else body)
    path = f"/v1/runs/{quote(arguments.id, safe='')}"
    if arguments.action == "cancel":
        return _show_run(arguments, client.call("POST", f"{path}/cancel"))
    if arguments.action == "result":
        body = _ended(client, arguments.id)
        if not arguments.json and body["status"] == "completed":
            print(json.dumps(body["output"]))
            return 0
        return _show_run(arguments, body)
    return _show_run(arguments, client.call("GET", path))


def _start_body(arguments: argparse.Namespace) -> dict[str, Any]:
    namespace, _, name = arguments.name.rpartition("/")
    text = sys.stdin.read() if arguments.input == "-" else arguments.input
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"--input is not JSON: {error}", hint="""quote it: --input '{"a": 1}'""") from error
    workflow = {"namespace": namespace or "default", "name": name, "version": arguments.version}
    body: dict[str, Any] = {"workflow": workflow, "input": value}
    if arguments.id:
        body["id"] = arguments.id
    return body


def _ended(client: AdminClient, run: str) -> Any:
    """Wait for a run's end for as long as ``--timeout`` says; one request is held open for less than that.

    Raises:
        DeadlineExceeded: It has not ended; the message names the run, which goes on.
    """
    late = DeadlineExceeded(
        f"run {run} has not ended within {client.timeout_s:g} s",
        hint=f"it goes on: frys-node workflow result {run} --timeout S waits again",
    )
    deadline = time.monotonic() + client.timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        client.timeout_s = left_s
        try:
            body = client.call("GET", f"/v1/runs/{quote(run, safe='')}?wait=true")
        except DeadlineExceeded as error:
            raise late from error
        if body["status"] in ENDED:
            return body
    raise late


def _show_run(arguments: argparse.Namespace, body: Any) -> int:
    shown = escaped(body)
    head = f"{shown['id']}  {shown['workflow']['name']}  {shown['status']}"
    lines = [f"{head}  owner {shown['owner']} epoch {shown['epoch']}"]
    if body.get("output") is not None:
        lines.append(f"output: {json.dumps(body['output'])}")
    if body.get("error"):
        lines.append(f"error: {shown['error']['type']}: {shown['error']['message']}")
        lines += [f"  {line}" for line in body["error"]["detail"].splitlines()]
    tasks = [(t["reference"], t["name"], t["status"], t["attempts"]) for t in body.get("tasks", [])]
    if tasks:
        lines.append(table(tasks, ("TASK", "NAME", "STATUS", "ATTEMPTS")))
    show(arguments, body, "\n".join(lines))
    return 1 if body["status"] in ENDED - {"completed"} else 0
