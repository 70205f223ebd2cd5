"""frys: one light node per machine.

Importing this package pulls in nothing else: `frys-node --version` and every CLI verb stay quick, and the
names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from frys_node.plugins.workflow.api import Retry, StepFailed, current_run, current_step, step, workflow

__version__ = "0.1.0"
__all__ = ["Retry", "StepFailed", "__version__", "current_run", "current_step", "step", "workflow"]

_LAZY = {
    "Retry": "frys_node.plugins.workflow.api",
    "StepFailed": "frys_node.plugins.workflow.api",
    "current_run": "frys_node.plugins.workflow.api",
    "current_step": "frys_node.plugins.workflow.api",
    "step": "frys_node.plugins.workflow.api",
    "workflow": "frys_node.plugins.workflow.api",
}


def __getattr__(name: str) -> object:
    """Load an authoring name on first use (PEP 562)."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)
