"""Finding users' workflows: importable modules and files."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from frys_node.base.errors import ConfigError, FrysError
from frys_node.plugins.workflow.api import Workflow, collect


def load_workflows(modules: Sequence[str], files: Sequence[str]) -> list[Workflow]:
    """Import modules and files and return their workflows.

    Raises:
        ConfigError: One cannot be imported, defines no workflow, or two define the same version. Nothing is served.
    """
    found: dict[tuple[str, str, str], Workflow] = {}
    for where, module in [*((name, _module(name)) for name in modules), *((name, _file(name)) for name in files)]:
        workflows = collect(vars(module))
        if not workflows:
            raise ConfigError(
                f"{where} defines no workflow", hint="decorate an async function with @workflow(name=...)"
            )
        for workflow in workflows:
            other = found.setdefault(workflow.key, workflow)
            if other.function is not workflow.function:
                raise ConfigError(
                    f"{where}: {workflow!r} is defined twice", hint="give the newer one another version or name"
                )
    return list(found.values())


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise _refused(f"[plugins.workflow] modules: {name}", error) from error


def _file(text: str) -> ModuleType:
    path = Path(text).expanduser().resolve()
    if not path.is_file():
        raise ConfigError(f"workflow file {text} does not exist", hint="check --workflows")
    # A name of its own for each path, so that two files called flows.py do not meet.
    name = f"frys_workflows_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"workflow file {text} is not Python", hint="its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _refused(f"workflow file {text}", error) from error
    return module


def _refused(where: str, error: Exception) -> ConfigError:
    message = error.message if isinstance(error, FrysError) else f"{type(error).__name__}: {error}"
    return ConfigError(f"{where} cannot be loaded: {message}", hint=getattr(error, "hint", ""))
