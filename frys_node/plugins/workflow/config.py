"""Settings of ``[plugins.workflow]``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class WorkflowConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Durable workflows."""

    modules: tuple[str, ...] = ()
    """Importable modules whose `@workflow` functions this node serves."""
    files: tuple[str, ...] = ()
    """Python files (``--workflows FILE.py``) whose `@workflow` functions this node serves."""
    steps_max: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    """Async step bodies that run at once; more wait."""
    threads_max: Annotated[int, Meta(ge=1, le=1_000)] = 16
    """Plain ``def`` step bodies that run at once, each in a thread; more wait."""
    runs_live_max: Annotated[int, Meta(ge=1)] = 200_000
    """Runs that have not ended, on this node; a start beyond it is refused."""
    awake_max: Annotated[int, Meta(ge=1)] = 2_000
    """Runs kept in memory; beyond it the one idle for longest is forgotten and rebuilt when needed."""
    awake_s: Annotated[float, Meta(gt=0)] = 5.0
    """Seconds without activity after which a run is forgotten."""
    wait_max_s: Annotated[float, Meta(gt=0, le=3_600, extra={"reload": "live"})] = 60.0
    """Longest time that a request with ``wait`` is held open."""
