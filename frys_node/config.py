"""The node's configuration: one TOML file, the environment, flags; composed from each package's own Struct.

Precedence: default < profile < file < ``FRYS_*`` environment < flag. Every value keeps its origin. Addresses that
nobody gives are those of an earlier start of the same directory (`NodeConfig.keeping`). Unknown keys are refused with
the nearest known one, wrong values with the key, the value and what was expected; a value that is refused changes
nothing. Secrets are never settings: they come from files that settings may name.

Plugins bring their own sections (``[plugins.<name>]``, the `config` of their manifest), each with two more keys:
``enabled`` and, for a plugin that is not built in, ``module``.
"""

from __future__ import annotations

import importlib
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from frys_node.base.errors import ConfigError, ReloadRefused
from frys_node.base.words import did_you_mean
from frys_node.kernel.cell import Change, diff, field_hints, refuse_restart, reload_classes
from frys_node.kernel.kernel import Kernel
from frys_node.kernel.registry import BUILT_IN, PluginRejected, PluginSpec, find
from frys_node.observe import log as observe_log
from frys_node.sections import ClusterConfig, NetworkConfig, PluginSwitch, SystemConfig

RESERVED_ENV = frozenset("FRYS_" + n for n in ("ADMIN_TOKEN", "COMPILE", "DATA_DIR", "KAT_DIR", "SW_DIR", "TOKEN"))
"""Variables with a meaning of their own."""

COMPONENTS = {
    "balancer": "balancer.config",
    "membership": "membership.config",
    "replication": "frys_node.replication.config",
    "snapshots": "snapshots.config",
}
"""Sections of ``[plugins.*]`` that belong to supervised components below the plugins: section -> module."""

FILE_BYTES_MAX = 1 << 20
KEPT = ("network.bind", "network.advertise", "plugins.network.http")
"""Settings that a node keeps when a later start does not give them: others know it by them."""
KEPT_ORIGIN = "an earlier start"
LOOPBACK_ORIGIN = "advertises loopback"

# Kubernetes gives every pod these for a Service whose name starts with `frys`; they are not ours.
_SERVICE_LINK = re.compile(r"FRYS(_[A-Z0-9_]+)?_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_\d+_(TCP|UDP)(_[A-Z]+)?)?)")


class _Made(msgspec.Struct):
    """Shows how msgspec keeps a default that is made anew for each instance."""

    made: list[str] = msgspec.field(default_factory=list)


_FACTORY: Any = type(_Made.__struct_defaults__[0])


class Setting(typing.NamedTuple):
    """One key of the schema."""

    key: str
    """Dotted: ``plugins.cache.resp``."""
    owner: type[msgspec.Struct]
    field: str
    hint: Any
    default: Any
    reload: str

    @property
    def env(self) -> str:
        """The variable that sets it."""
        return "FRYS_" + self.key.replace(".", "_").upper()


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A whole, validated configuration."""

    system: SystemConfig
    network: NetworkConfig
    cluster: ClusterConfig
    components: dict[str, Any]
    """Config of supervised components, such as ``membership``."""
    plugins: dict[str, Any]
    """Config of every known plugin, enabled or not; None for one without settings."""
    specs: tuple[PluginSpec, ...]
    """The enabled plugins."""
    modules: dict[str, str]
    values: dict[str, Any]
    """Every setting by dotted key, in the order of the schema."""
    origins: dict[str, str]
    """Where each value came from: ``default``, ``file PATH``, ``env NAME``, ``flag``, ``an earlier start``, or what it
    follows from: ``profile wan``, ``advertises loopback``, ``cluster.mtu``, ``crash_evidence off``."""

    def is_chosen(self, key: str) -> bool:
        """True if the operator set the key: a chosen port does not move."""
        return _is_chosen(self.origins[key])

    def chosen(self) -> list[str]:
        """Every key that the operator set."""
        return [key for key in self.values if self.is_chosen(key)]

    def to_keep(self) -> dict[str, str]:
        """Return the addresses that were chosen, for the next start."""
        return {key: self.values[key] for key in KEPT if self.is_chosen(key)}

    def keeping(self, kept: Mapping[str, str]) -> NodeConfig:
        """Return this configuration with an earlier start's addresses where nobody gives one now.

        Raises:
            ConfigError: One of them is not an address.
        """
        wanted = {key: kept[key] for key in KEPT if key in kept and not self.is_chosen(key)}
        if not wanted:
            return self
        sections = {"network": self.network, "plugins.network": self.plugins["network"]}
        for key, value in wanted.items():
            section, _, field = key.rpartition(".")
            sections[section] = msgspec.structs.replace(sections[section], **{field: value})
        return msgspec.structs.replace(
            self,
            network=sections["network"],
            plugins=self.plugins | {"network": sections["plugins.network"]},
            values=self.values | wanted,
            origins=self.origins | dict.fromkeys(wanted, KEPT_ORIGIN),
        )

    def on_loopback(self) -> NodeConfig:
        """Return this configuration for a node that advertises loopback: profile ``local``, unless one was chosen.

        Raises:
            ConfigError: What was chosen does not go with that profile.
        """
        if self.is_chosen("cluster.profile"):
            return self
        values = self.values | {"cluster.profile": "local"}
        origins = self.origins | {"cluster.profile": LOOPBACK_ORIGIN}
        _follow(values, origins, LOOPBACK_ORIGIN)
        return msgspec.structs.replace(
            self,
            cluster=msgspec.structs.replace(self.cluster, profile="local"),
            components={n: _build(f"plugins.{n}", _sole_struct(module), values) for n, module in COMPONENTS.items()},
            values=values,
            origins=origins,
        )

    def settings(self) -> list[dict[str, Any]]:
        """Every setting as key, value and origin, for `frys-node config show`."""
        return [{"key": key, "value": value, "origin": self.origins[key]} for key, value in self.values.items()]


def load(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    plugins: Sequence[str] = BUILT_IN,
) -> NodeConfig:
    """Read, merge and validate the configuration.

    Args:
        file: TOML file; None for none.
        environ: Environment; only ``FRYS_*`` is looked at.
        flags: Dotted keys to values (text is converted); None values are skipped.
        plugins: Plugins that are there without being named.

    Raises:
        ConfigError: Something is wrong; the message names the key, the value and what is expected. Nothing is changed.
    """
    tables = _read_file(file) if file is not None else {}
    specs = _specs(tables, plugins, str(file))
    schema = schema_of(specs)
    merge = _Merge(schema)
    merge.add_tables(tables, f"file {file}")
    merge.add_environ(environ or {})
    for key, value in (flags or {}).items():
        if value is not None:
            merge.add(key, value, "flag", is_text=isinstance(value, str))
    return _compose(merge, specs)


def schema_of(specs: Mapping[str, PluginSpec]) -> dict[str, Setting]:
    """Return every setting by dotted key: the node's own, the components', then the plugins'."""
    found: list[Setting] = []
    for section, cls in (("system", SystemConfig), ("network", NetworkConfig), ("cluster", ClusterConfig)):
        found += _settings(section, cls)
    for name, module in COMPONENTS.items():
        found += _settings(f"plugins.{name}", _sole_struct(module))
    for name, spec in specs.items():
        found += _settings(f"plugins.{name}", PluginSwitch)
        if spec.manifest.config is not None:
            found += _settings(f"plugins.{name}", spec.manifest.config)
    return {setting.key: setting for setting in found}


def changes(old: NodeConfig, new: NodeConfig) -> list[Change]:
    """Return what differs between two configurations, with the reload class of each field."""
    found: list[Change] = []
    for section in ("system", "network", "cluster"):
        found += diff(getattr(old, section), getattr(new, section), f"{section}.")
    for name, before in [*old.components.items(), *old.plugins.items()]:
        after = new.components.get(name, new.plugins.get(name))
        if before is not None and after is not None:
            found += diff(before, after, f"plugins.{name}.")
    return found


async def apply(kernel: Kernel, old: NodeConfig, new: NodeConfig) -> list[Change]:
    """Put a newly read configuration into force while the node runs, whole or not at all; returns what changed.

    Raises:
        ReloadRefused: A changed key needs a restart, or a plugin refused. The old configuration stands.
    """
    found = changes(old, new)
    refuse_restart(found)
    stuck = [name for name in old.components if old.components[name] != new.components.get(name)]
    takers = {name: kernel.component(name) for name in stuck}
    missing = [name for name, component in takers.items() if not hasattr(component, "configure")]
    if missing:
        raise ReloadRefused(f"these sections change only with a restart: {', '.join(missing)}", hint="restart the node")
    await kernel.reconfigure({name: config for name, config in new.plugins.items() if config is not None})
    for name, component in takers.items():
        component.configure(new.components[name])
    observe_log.configure(level=new.system.log_level, form=new.system.log_format)
    return found


def _settings(section: str, cls: type[msgspec.Struct]) -> Iterator[Setting]:
    reloads, defaults = reload_classes(cls), defaults_of(cls)
    for name, hint in field_hints(cls).items():
        key, inner = f"{section}.{name}", _bare(hint)
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            yield from _settings(key, inner)
        else:
            assert name in defaults, f"{key} has no default"
            yield Setting(key, cls, name, hint, defaults[name], reloads[name])


def defaults_of(cls: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the defaults of a Struct's fields, those that a factory makes anew.

    `msgspec.structs.fields` tells them too, but compiles every annotation on the way.
    """
    count = len(cls.__struct_defaults__)
    found = zip(cls.__struct_fields__[-count:], cls.__struct_defaults__, strict=True) if count else ()
    return {
        name: value.factory() if isinstance(value, _FACTORY) else value
        for name, value in found
        if value is not msgspec.NODEFAULT
    }


def _bare(hint: Any) -> Any:
    """Return what is annotated, without its bounds."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _sole_struct(module: str) -> type[msgspec.Struct]:
    imported = importlib.import_module(module)
    found = [
        value
        for value in vars(imported).values()
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == module
    ]
    assert found, f"{module} defines no config Struct"
    # Nested sections are defined before the Struct that holds them.
    return found[-1]


def _read_file(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the config file {path}: {error.strerror}", hint="check --config") from error
    import tomllib

    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path} is over {FILE_BYTES_MAX} bytes: not a config file")
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", hint="strings need quotes; lists are [a, b]") from error


def _specs(tables: Mapping[str, Any], known: Sequence[str], where: str) -> dict[str, PluginSpec]:
    """Find every plugin: those that are always there and those that the file names."""
    sections = tables.get("plugins", {})
    if not isinstance(sections, dict):
        raise ConfigError(f"file {where}: 'plugins' is not a table", hint="write [plugins.<name>] sections")
    specs: dict[str, PluginSpec] = {}
    for name in [*known, *(name for name in sections if name not in known and name not in COMPONENTS)]:
        section = sections.get(name, {})
        module = section.get("module", "") if isinstance(section, dict) else ""
        try:
            specs[name] = find(name, module if isinstance(module, str) else "")
        except PluginRejected as error:
            near = _nearest(name, [*known, *COMPONENTS])
            raise ConfigError(f"[plugins.{name}]: {error.message}{near}", hint=error.hint) from error
    return specs


class _Merge:
    """Collects values layer by layer; a later layer wins."""

    def __init__(self, schema: Mapping[str, Setting]) -> None:
        self.schema = schema
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self._sections = {".".join(p[:end]) for p in (key.split(".") for key in schema) for end in range(1, len(p))}

    def add(self, key: str, value: Any, origin: str, *, is_text: bool) -> None:
        """Check one value against its own type and bounds, and take it."""
        setting = self.schema.get(key)
        if setting is None:
            raise self._unknown(key, origin)
        try:
            self.values[key] = convert_text(value, setting.hint) if is_text else msgspec.convert(value, setting.hint)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            expected = str(error).partition(" - at")[0].replace("`", "")
            raise ConfigError(
                f"{origin}: {key} = {value!r} is not possible: {expected[:1].lower()}{expected[1:]}",
                hint=f"the default is {setting.default!r}",
            ) from None
        self.origins[key] = origin

    def add_tables(self, tables: Mapping[str, Any], origin: str, prefix: str = "") -> None:
        """Take the tables of a TOML file."""
        for name, value in tables.items():
            key = f"{prefix}{name}"
            if key in self.schema:
                self.add(key, value, origin, is_text=False)
            elif key in self._sections and isinstance(value, dict):
                self.add_tables(value, origin, f"{key}.")
            elif key in self._sections:
                raise ConfigError(f"{origin}: {key} = {value!r} is not possible: expected a section [{key}]")
            else:
                raise self._unknown(key, origin)

    def add_environ(self, environ: Mapping[str, str]) -> None:
        """Take the ``FRYS_*`` variables."""
        by_env = {setting.env: key for key, setting in self.schema.items()}
        for name in sorted(environ):
            if not name.startswith("FRYS_") or name in RESERVED_ENV:
                continue
            if name in by_env:
                self.add(by_env[name], environ[name], f"env {name}", is_text=True)
            elif not _SERVICE_LINK.fullmatch(name):
                raise ConfigError(
                    f"environment: {name} sets nothing{_nearest(name, [*by_env, *sorted(RESERVED_ENV)])}",
                    hint="unset it, or see docs/configuration.md for the names",
                )

    def _unknown(self, key: str, origin: str) -> ConfigError:
        kind = "section" if key in {"system", "network", "cluster", "plugins"} or "." not in key else "key"
        near = _nearest(key, [*self.schema, *sorted(self._sections)])
        return ConfigError(f"{origin}: unknown {kind} '{key}'{near}", hint="docs/configuration.md lists every key")


def convert_text(text: str, hint: Any) -> Any:
    """Convert a variable's or flag's text: JSON if it starts so, else ``a,b`` for lists and ``k=v,k=v`` for tables."""
    value: Any = text
    info = msgspec.inspect.type_info(hint)
    stripped = text.strip()
    if isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    if isinstance(info, (msgspec.inspect.VarTupleType, msgspec.inspect.ListType, msgspec.inspect.DictType)):
        if stripped[:1] in ("[", "{"):
            return msgspec.convert(msgspec.json.decode(stripped), hint)
        parts = [part.strip() for part in stripped.split(",") if part.strip()]
        is_table = isinstance(info, msgspec.inspect.DictType)
        value = {k.strip(): v.strip() for k, _, v in (p.partition("=") for p in parts)} if is_table else parts
    return msgspec.convert(value, hint, strict=False)


def _is_chosen(origin: str) -> bool:
    return origin.partition(" ")[0] in ("file", "env", "flag") or origin == KEPT_ORIGIN


def _follow(values: dict[str, Any], origins: dict[str, str], profile_origin: str) -> None:
    """Set what nobody chose of the components' settings to what follows from others, else to its default."""
    for name, module in COMPONENTS.items():
        prefix = f"plugins.{name}."
        own: dict[str, Any] = {}
        for setting in _settings(f"plugins.{name}", _sole_struct(module)):
            if not _is_chosen(origins[setting.key]):
                values[setting.key], origins[setting.key] = setting.default, "default"
            own[setting.key.removeprefix(prefix)] = values[setting.key]
        follows = getattr(importlib.import_module(module), "follows", None)
        found = {} if follows is None else follows(own, profile=values["cluster.profile"], mtu=values["cluster.mtu"])
        for field, (value, origin) in found.items():
            if origins[prefix + field] == "default":
                values[prefix + field], origins[prefix + field] = value, origin or profile_origin


def _compose(merge: _Merge, specs: Mapping[str, PluginSpec]) -> NodeConfig:
    values = {key: merge.values.get(key, setting.default) for key, setting in merge.schema.items()}
    origins = {key: merge.origins.get(key, "default") for key in values}
    _follow(values, origins, f"profile {values['cluster.profile']}")
    configs = {
        name: _build(f"plugins.{name}", spec.manifest.config, values) if spec.manifest.config is not None else None
        for name, spec in specs.items()
    }
    return NodeConfig(
        system=_build("system", SystemConfig, values),
        network=_build("network", NetworkConfig, values),
        cluster=_build("cluster", ClusterConfig, values),
        components={n: _build(f"plugins.{n}", _sole_struct(module), values) for n, module in COMPONENTS.items()},
        plugins=configs,
        specs=tuple(spec for name, spec in specs.items() if values[f"plugins.{name}.enabled"]),
        modules={name: values[f"plugins.{name}.module"] for name in specs if values[f"plugins.{name}.module"]},
        values=values,
        origins=origins,
    )


def _build(section: str, cls: Any, values: Mapping[str, Any]) -> Any:
    """Make a Struct from checked values; rules that span fields are its own `__post_init__`."""
    arguments: dict[str, Any] = {}
    for name, hint in field_hints(cls).items():
        key = f"{section}.{name}"
        arguments[name] = values[key] if key in values else _build(key, _bare(hint), values)
    try:
        return cls(**arguments)
    except (ConfigError, ValueError, TypeError) as error:
        message = error.message if isinstance(error, ConfigError) else str(error)
        raise ConfigError(f"[{section}] {message}", hint=getattr(error, "hint", "")) from error


def _nearest(name: str, known: Sequence[str]) -> str:
    """Return a suggestion: the same last word elsewhere first, since a right key in a wrong section is common."""
    last = name.rpartition(".")[2]
    near = [key for key in known if "." in name and key.rpartition(".")[2] == last][:1]
    return f"; did you mean '{near[0]}'?" if near else did_you_mean(name, known)
