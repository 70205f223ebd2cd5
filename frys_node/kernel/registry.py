"""Finds plugins, checks what they say of themselves, and orders them by what they provide and require.

A plugin is a module with either a function ``create() -> Plugin`` or exactly one class of its own that has the
plugin's methods. Sources, in order of precedence: the config (``[plugins.<name>] module = "my.package"``), the
built-ins (``frys_node.plugins.<name>.plugin``), and installed distributions (entry points in the group
``frys.plugins``). Importing a plugin's module must be cheap: what is heavy is imported in `init` (D12).
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import msgspec

from frys_node.base.errors import PluginError
from frys_node.kernel.plugin import Plugin, PluginManifest

ENTRY_POINTS = "frys.plugins"
BUILT_IN = ("network", "cache", "vector", "workflow")
PLUGINS_MAX = 64

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_METHODS = ("metadata", "init", "on_load", "handle_message", "on_config_change", "on_unload", "cleanup")


class PluginRejected(PluginError):
    """The plugin's module or manifest is not acceptable. It was not loaded."""

    code = "plugin.rejected"
    status = 400


class DependencyError(PluginError):
    """The plugins cannot be put in an order. None of them was loaded."""

    code = "plugin.dependency"
    status = 409


class PluginSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin that can be loaded: its manifest and how to make an instance."""

    manifest: PluginManifest
    factory: Callable[[], Plugin]
    source: str
    """Where it came from: ``built-in``, ``config`` or ``entry point``."""
    module: str

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self.manifest.name


def find(name: str, module: str = "") -> PluginSpec:
    """Find one plugin; `module` is what its config section names, empty if nothing.

    Raises:
        PluginRejected: There is none of that name, or it is not a plugin. Nothing was loaded.
    """
    if module:
        return load_spec(name, module, "config")
    if name in BUILT_IN:
        return load_spec(name, f"frys_node.plugins.{name}.plugin", "built-in")
    # Reading the metadata of every installed distribution is slow; only an unknown name pays for it.
    from importlib.metadata import entry_points

    for point in entry_points(group=ENTRY_POINTS, name=name):
        return load_spec(name, point.value.partition(":")[0], "entry point")
    raise PluginRejected(
        f"there is no plugin '{name}'",
        hint=f'built in are {", ".join(BUILT_IN)}; for your own set [plugins.{name}] module = "your.module"',
    )


def load_spec(name: str, module: str, source: str) -> PluginSpec:
    """Import a plugin's module and check its manifest.

    Raises:
        PluginRejected: The module cannot be imported, holds no plugin, or the plugin calls itself otherwise.
    """
    try:
        imported = importlib.import_module(module)
    except Exception as error:
        raise PluginRejected(
            f"plugin '{name}': module '{module}' cannot be imported: {type(error).__name__}: {error}",
            hint="check the module's name and that its package is installed in this environment",
        ) from error
    factory = _factory(name, imported)
    try:
        manifest = factory().metadata()
    except Exception as error:
        raise PluginRejected(f"plugin '{name}': metadata() failed: {type(error).__name__}: {error}") from error
    _check_manifest(name, manifest)
    return PluginSpec(manifest=manifest, factory=factory, source=source, module=module)


def fresh(spec: PluginSpec) -> PluginSpec:
    """Find a plugin again; the code of one that is not built in is read from disk anew."""
    if spec.source != "built-in":
        # A package is dropped as a whole: its modules hold references to one another.
        package = spec.module.rpartition(".")[0] if spec.module.endswith(".plugin") else spec.module
        for loaded in [m for m in sys.modules if m == package or m.startswith(package + ".")]:
            del sys.modules[loaded]
        importlib.invalidate_caches()
    return load_spec(spec.name, spec.module, spec.source)


def _factory(name: str, module: Any) -> Callable[[], Plugin]:
    create = getattr(module, "create", None)
    if create is not None:
        return cast("Callable[[], Plugin]", create)
    classes = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        and all(callable(getattr(value, method, None)) for method in _METHODS)
    ]
    if len(classes) != 1:
        found = "no class" if not classes else f"{len(classes)} classes"
        raise PluginRejected(
            f"plugin '{name}': module '{module.__name__}' has {found} with the methods {', '.join(_METHODS)}",
            hint="define one such class, or a function create() that returns the plugin",
        )
    return cast("Callable[[], Plugin]", classes[0])


def _check_manifest(name: str, manifest: Any) -> None:
    problem = ""
    if not isinstance(manifest, PluginManifest):
        problem = f"metadata() returned {type(manifest).__name__}, not a PluginManifest"
    elif manifest.name != name:
        problem = f"its manifest calls it '{manifest.name}'"
    elif not _NAME.fullmatch(manifest.name):
        problem = "its name is not lower-case letters, digits and underscores (at most 32)"
    elif not manifest.version:
        problem = "its manifest has no version"
    elif set(manifest.provides) & set(manifest.requires):
        problem = f"it requires what it provides: {', '.join(sorted(set(manifest.provides) & set(manifest.requires)))}"
    elif len(set(manifest.provides)) != len(manifest.provides):
        problem = "it names a service twice in `provides`"
    elif not all(isinstance(topic, type) for topic in manifest.topics):
        problem = "its topics are not event classes"
    elif manifest.config is not None and not issubclass(manifest.config, msgspec.Struct):
        problem = "its config is not a msgspec Struct"
    if problem:
        raise PluginRejected(f"plugin '{name}' is not acceptable: {problem}")


def order(specs: Iterable[PluginSpec], present: Iterable[str] = ()) -> list[PluginSpec]:
    """Return the plugins so that each comes after the providers of what it requires; names break ties.

    Args:
        specs: Plugins to be loaded.
        present: Names of services that are provided already.

    Raises:
        DependencyError: A requirement that nobody provides, a service with two providers, a name twice, or a cycle;
            the message names them all. Nothing was loaded.
    """
    by_name = _unique(specs)
    providers = _providers(by_name.values(), set(present))
    missing = [
        f"'{spec.name}' requires '{service}'"
        for spec in by_name.values()
        for service in spec.manifest.requires
        if service not in providers
    ]
    if missing:
        raise DependencyError(
            f"nobody provides what is required: {'; '.join(missing)}",
            hint="enable the plugin that provides it, or disable the one that requires it",
        )
    waiting = {
        name: {providers[service] for service in spec.manifest.requires if providers[service]}
        for name, spec in by_name.items()
    }
    ordered: list[PluginSpec] = []
    while waiting:
        ready = [name for name, needs in waiting.items() if not needs]
        if not ready:
            raise DependencyError(f"plugins require one another in a circle: {' -> '.join(_cycle(waiting))}")
        for name in ready:
            del waiting[name]
            ordered.append(by_name[name])
        for needs in waiting.values():
            needs.difference_update(ready)
    return ordered


def _unique(specs: Iterable[PluginSpec]) -> dict[str, PluginSpec]:
    by_name: dict[str, PluginSpec] = {}
    for spec in sorted(specs, key=lambda item: item.name):
        if spec.name in by_name:
            raise DependencyError(f"two plugins are called '{spec.name}'")
        by_name[spec.name] = spec
    if len(by_name) > PLUGINS_MAX:
        raise DependencyError(f"{len(by_name)} plugins are more than {PLUGINS_MAX}")
    return by_name


def _providers(specs: Iterable[PluginSpec], present: set[str]) -> dict[str, str]:
    """Map each service to the plugin that provides it, to ``""`` if it is there already."""
    providers: dict[str, str] = dict.fromkeys(sorted(present), "")
    for spec in specs:
        for service in spec.manifest.provides:
            if service in providers:
                other = f"plugin '{providers[service]}'" if providers[service] else "the node itself"
                raise DependencyError(f"service '{service}' is provided by plugin '{spec.name}' and by {other}")
            providers[service] = spec.name
    return providers


def _cycle(waiting: dict[str, set[str]]) -> Sequence[str]:
    """Return one circle among plugins that all wait for one another, first name repeated at the end."""
    path = [min(waiting)]
    while True:
        following = min(waiting[path[-1]])
        if following in path:
            return [*path[path.index(following) :], following]
        path.append(following)


def dependents(name: str, loaded: Sequence[PluginSpec]) -> list[PluginSpec]:
    """Return the loaded plugins that build on `name`, directly or not, in their load order."""
    offered = {service for spec in loaded if spec.name == name for service in spec.manifest.provides}
    found: list[PluginSpec] = []
    for spec in loaded:
        if spec.name != name and offered & set(spec.manifest.requires):
            found.append(spec)
            offered |= set(spec.manifest.provides)
    return found
