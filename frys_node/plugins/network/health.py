"""Health, as the first thing that a node answers: ``/livez``, ``/healthz`` and ``/readyz``."""

from __future__ import annotations

from collections.abc import Sequence

from frys_node.kernel.context import PluginContext
from frys_node.kernel.services.http import HttpRequest, HttpResponse
from frys_node.kernel.services.node import NODE, Check
from frys_node.plugins.network.router import Router


class HealthRoutes:
    """Handlers over what the node says of itself."""

    def __init__(self, context: PluginContext) -> None:
        self._node = context.service(NODE)

    def register(self, router: Router) -> None:
        """Add every route."""
        for path in ("/livez", "/healthz"):
            router.route("GET", path, self.live, scope="open")
        router.route("GET", "/readyz", self.ready, scope="open")

    async def live(self, request: HttpRequest) -> HttpResponse:
        """200 while the event loop turns."""
        return _checks(self._node.liveness(), request)

    async def ready(self, request: HttpRequest) -> HttpResponse:
        """200 when this node should get traffic, else 503; ``?verbose`` lists the checks."""
        return _checks(self._node.readiness(), request)


def _checks(checks: Sequence[Check], request: HttpRequest) -> HttpResponse:
    """Answer like Kubernetes' own endpoints: ``ok``, or a line for each check."""
    status = 200 if all(check.ok for check in checks) else 503
    if "verbose" not in request.query and status == 200:
        return HttpResponse(body=b"ok\n", content_type="text/plain; charset=utf-8")
    lines = [
        f"[{'+' if check.ok else '-'}]{check.name} {'ok' if check.ok else 'failed: ' + check.detail}"
        for check in checks
        if "verbose" in request.query or not check.ok
    ]
    return HttpResponse(
        status=status, body=("\n".join(lines) + "\n").encode(), content_type="text/plain; charset=utf-8"
    )
