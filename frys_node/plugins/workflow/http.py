"""The HTTP face: ``/v1/workflows`` and ``/v1/runs``. JSON shapes are fixed by the design, section 4."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from frys_node.base.errors import UsageError
from frys_node.kernel.services.http import Http, HttpRequest, HttpResponse
from frys_node.plugins.workflow.api import Workflow
from frys_node.plugins.workflow.messages import CancelRun, ShowRun, SignalRun, StartRun
from frys_node.plugins.workflow.partition import RunService, version_order
from frys_node.plugins.workflow.runs import STATUSES
from frys_node.plugins.workflow.values import OUTPUT_BYTES_MAX, encode_value

PREFIXES = ("/v1/workflows", "/v1/runs")
LIST_LIMIT = 100
"""Runs in a listing that does not say how many."""
LIST_LIMIT_MAX = 1_000

_ID = re.compile(r"[A-Za-z0-9._:~@+-]{1,200}")


class WorkflowRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which workflow; without a version the newest."""

    name: str
    namespace: str = "default"
    version: str = ""


class StartBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/runs``. `workflow` may be just a name, or ``namespace/name``."""

    workflow: WorkflowRef | str
    input: Any = None
    id: str = ""
    wait: bool = False


class SignalBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/runs/{id}/signals/{name}``; sending the same `id` again does nothing."""

    value: Any = None
    id: str = ""


class CancelBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/runs/{id}/cancel``; may be empty."""

    reason: str = "cancelled by request"


class WorkflowHttp:
    """Routes of workflows and runs."""

    def __init__(self, service: RunService, workflows: list[Workflow], new_id: Callable[[], str]) -> None:
        self._service = service
        self._workflows = workflows
        self._new_id = new_id

    def register(self, http: Http) -> None:
        """Add the routes."""
        http.route("GET", "/v1/workflows", self.workflows, scope="read")
        http.route("POST", "/v1/runs", self.start, scope="write")
        http.route("GET", "/v1/runs", self.runs, scope="read")
        http.route("GET", "/v1/runs/{id}", self.show, scope="read")
        http.route("POST", "/v1/runs/{id}/cancel", self.cancel, scope="write")
        http.route("POST", "/v1/runs/{id}/signals/{name}", self.signal, scope="write")

    async def workflows(self, request: HttpRequest) -> HttpResponse:
        """List the workflows that this node serves."""
        del request
        listed = sorted(self._workflows, key=lambda w: (w.namespace, w.name, version_order(w.version)))
        return HttpResponse.json(
            {
                "workflows": [
                    {"namespace": w.namespace, "name": w.name, "version": w.version, "description": w.summary}
                    for w in listed
                ]
            }
        )

    async def start(self, request: HttpRequest) -> HttpResponse:
        """Start a run, or attach to the one that has this id, workflow and input; with ``wait`` answer at its end."""
        body = request.json(StartBody)
        ref = body.workflow
        if isinstance(ref, str):
            namespace, _, name = ref.rpartition("/")
            ref = WorkflowRef(name=name, namespace=namespace or "default")
        run = _run_id(body.id or self._service.open_id(self._new_id))
        data = encode_value(body.input, "the input", OUTPUT_BYTES_MAX)
        wait = body.wait or _is_true(request.query.get("wait"))
        return _json(
            await self._service.request(StartRun(run, ref.namespace, ref.name, ref.version, data, wait)), status=201
        )

    async def show(self, request: HttpRequest) -> HttpResponse:
        """Show a run; with ``?wait=true`` once it has ended (or the longest wait is over)."""
        wait = _is_true(request.query.get("wait"))
        return _json(await self._service.request(ShowRun(_run_id(request.params["id"]), wait)))

    async def runs(self, request: HttpRequest) -> HttpResponse:
        """List runs of the cluster, newest first: ``?workflow=namespace/name&status=running&limit=100``."""
        status = request.query.get("status", "")
        if status and status not in STATUSES:
            raise UsageError(f"status '{status[:40]}' is none of {', '.join(STATUSES)}")
        workflow = request.query.get("workflow", "")
        if workflow and "/" not in workflow:
            workflow = f"default/{workflow}"
        text = request.query.get("limit", str(LIST_LIMIT))
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= LIST_LIMIT_MAX:
            raise UsageError(f"limit '{text[:40]}' is not a number from 1 to {LIST_LIMIT_MAX}")
        return _json(await self._service.list(workflow, status, int(text)))

    async def cancel(self, request: HttpRequest) -> HttpResponse:
        """Ask a run to cancel; one that has ended stays as it is."""
        body = request.json(CancelBody)
        return _json(await self._service.request(CancelRun(_run_id(request.params["id"]), body.reason[:1_000])))

    async def signal(self, request: HttpRequest) -> HttpResponse:
        """Deliver a signal to a run, once per signal id."""
        body = request.json(SignalBody)
        run, name = _run_id(request.params["id"]), request.params["name"]
        if not name or len(name) > 200:
            raise UsageError("a signal's name has 1 to 200 characters")
        data = encode_value(body.value, "the signal's value", OUTPUT_BYTES_MAX)
        return _json(await self._service.request(SignalRun(run, name, body.id or self._new_id(), data)))


def _json(body: bytes, status: int = 200) -> HttpResponse:
    return HttpResponse(status=status, body=body)


def _run_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise UsageError(f"run id '{text[:60]}' is not valid", hint="1 to 200 of A-Z a-z 0-9 . _ : ~ @ + -")
    return text


def _is_true(text: str | None) -> bool:
    return text is not None and text.lower() in ("", "1", "true", "yes")
