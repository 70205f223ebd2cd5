"""Configuration: precedence, origins, refusals that name the fix, the reference page."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from frys_node.base.errors import ConfigError, ReloadRefused
from frys_node.config import RESERVED_ENV, NodeConfig, changes, defaults_of, load, schema_of
from frys_node.kernel.cell import refuse_restart
from frys_node.kernel.registry import BUILT_IN, find

ROOT = Path(__file__).resolve().parents[2]
HERE = [name for name in BUILT_IN if importlib.util.find_spec(f"frys_node.plugins.{name}.plugin")]


def _load(tmp_path: Path, text: str = "", **arguments: Any) -> NodeConfig:
    file = tmp_path / "frys.toml"
    file.write_text(text, encoding="utf-8")
    return load(file=file, plugins=("network",), **arguments)


def _refusal(tmp_path: Path, text: str = "", **arguments: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text, **arguments)
    return caught.value.message.replace(str(tmp_path), "")


def test_defaults_need_no_file() -> None:
    """Nothing given, everything is there, and says that it is a default."""
    config = load(plugins=("network",))
    assert (config.cluster.partitions, config.plugins["network"].http) == (256, "127.0.0.1:8080")
    assert set(config.origins.values()) == {"default"}
    assert [spec.name for spec in config.specs] == ["network"]


def test_later_layers_win_and_every_origin_is_kept(tmp_path: Path) -> None:
    """Default < profile < file < environment < flag, key by key."""
    text = """
        [system]
        name = "a"
        log_level = "debug"
        grace_s = 3
        [cluster]
        profile = "wan"
        [plugins.membership]
        gossip_fanout = 9
    """
    config = _load(
        tmp_path,
        text,
        environ={"FRYS_SYSTEM_LOG_LEVEL": "error", "FRYS_SYSTEM_NAME": "b", "FRYS_TOKEN": "secret", "PATH": "/bin"},
        flags={"system.name": "c", "network.bind": None},
    )
    assert (config.system.name, config.system.log_level, config.system.grace_s) == ("c", "error", 3.0)
    assert (config.components["membership"].gossip_fanout, config.components["membership"].probe_interval_s) == (9, 5.0)
    origins = config.origins
    assert origins["system.name"] == "flag"
    assert origins["system.log_level"] == "env FRYS_SYSTEM_LOG_LEVEL"
    assert origins["system.grace_s"] == f"file {tmp_path / 'frys.toml'}"
    assert origins["plugins.membership.probe_interval_s"] == "profile wan"
    assert origins["network.bind"] == "default"
    assert not config.is_chosen("network.bind")
    assert {"key": "system.name", "value": "c", "origin": "flag"} in config.settings()


def test_addresses_of_an_earlier_start_fill_in_for_those_that_nobody_gives(tmp_path: Path) -> None:
    """A restart without flags keeps the node where others know it; whatever is given now counts more, and is kept."""
    first = load(flags={"network.bind": "127.0.0.1:9000", "plugins.network.http": "127.0.0.1:9001"})
    kept = first.to_keep()
    assert kept == {"network.bind": "127.0.0.1:9000", "plugins.network.http": "127.0.0.1:9001"}
    again = load().keeping(kept)
    assert again.network.bind == again.values["network.bind"] == "127.0.0.1:9000"
    assert again.plugins["network"].http == "127.0.0.1:9001"
    assert again.origins["network.bind"] == again.origins["plugins.network.http"] == "an earlier start"
    assert again.is_chosen("network.bind")
    assert again.to_keep() == kept
    moved = load(environ={"FRYS_NETWORK_BIND": "0.0.0.0:7946"}).keeping(kept)
    assert moved.network.bind == "0.0.0.0:7946"
    assert moved.to_keep() == kept | {"network.bind": "0.0.0.0:7946"}
    assert load().keeping({}).to_keep() == {}
    assert load().keeping({"system.name": "x"}).system.name == ""


def test_a_node_that_advertises_loopback_shows_the_profile_that_it_runs(tmp_path: Path) -> None:
    """The profile and what follows from it have their own origin; what was chosen stands."""
    text = "[plugins.membership]\nstall_max_s = 7.0\nprobe_interval_s = 0.7\n"
    local = _load(tmp_path, text).on_loopback()
    assert local.cluster.profile == local.values["cluster.profile"] == "local"
    assert local.origins["cluster.profile"] == "advertises loopback"
    membership = local.components["membership"]
    assert membership.crash_suspicion_s == local.values["plugins.membership.crash_suspicion_s"] == 0.3
    assert local.origins["plugins.membership.crash_suspicion_s"] == "advertises loopback"
    assert (membership.probe_interval_s, membership.stall_max_s) == (0.7, 7.0)
    assert local.origins["plugins.membership.probe_interval_s"].startswith("file ")
    chosen = _load(tmp_path, '[cluster]\nprofile = "lan"\n')
    assert chosen.on_loopback() is chosen
    with pytest.raises(ConfigError, match="ack_timeout_s"):
        _load(tmp_path, "[plugins.membership]\nack_timeout_s = 0.4\n").on_loopback()


def test_what_follows_from_other_settings_is_shown_as_it_is_in_force(tmp_path: Path) -> None:
    """The MTU and the lack of crash evidence change membership; what was set by hand stands, and loopback unsets it."""
    text = '[cluster]\nmtu = 1280\n[plugins.membership]\ncrash_evidence = "off"\n'
    config = _load(tmp_path, text)
    pause, size = "plugins.membership.watch_pause_s", "plugins.membership.packet_bytes_max"
    assert (config.values[pause], config.values[size]) == (1.0, 1_232)
    assert (config.origins[pause], config.origins[size]) == ("crash_evidence off", "cluster.mtu")
    membership = config.components["membership"]
    assert (membership.watch_pause_s, membership.packet_bytes_max) == (1.0, 1_232)
    assert not config.is_chosen(size)
    local = config.on_loopback()
    assert (local.values[pause], local.origins[pause]) == (0.5, "default")
    assert (local.components["membership"].packet_bytes_max, local.origins[size]) == (1_232, "cluster.mtu")
    chosen = _load(tmp_path, text + "watch_pause_s = 0.7\npacket_bytes_max = 600\n")
    assert (chosen.values[pause], chosen.values[size]) == (0.7, 600)
    assert chosen.is_chosen(size)


def test_environment_text_is_converted_by_the_schema(tmp_path: Path) -> None:
    """Numbers, booleans, lists and tables are written the way people write variables."""
    environ = {
        "FRYS_CLUSTER_SEEDS": "10.0.0.1:7946, node-b",
        "FRYS_CLUSTER_TAGS": "rack=a,role=db",
        "FRYS_CLUSTER_WEIGHT": "2.5",
        "FRYS_PLUGINS_NETWORK_INSECURE": "true",
        "FRYS_PLUGINS_NETWORK_LIMITS_CONNECTIONS": "7",
        "FRYS_CLUSTER_ALLOW": '["10.0.0.0/8"]',
    }
    config = _load(tmp_path, environ=environ)
    assert config.cluster.seeds == ("10.0.0.1:7946", "node-b")
    assert config.cluster.tags == {"rack": "a", "role": "db"}
    assert (config.cluster.weight, config.cluster.allow) == (2.5, ("10.0.0.0/8",))
    assert config.plugins["network"].insecure is True
    assert config.plugins["network"].limits.connections == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cluster]\nseedz = []", "unknown key 'cluster.seedz'; did you mean 'cluster.seeds'?"),
        ("[clutser]\nname = 'a'", "unknown section 'clutser'; did you mean 'cluster'?"),
        ("[system]\nbind = 'x'", "unknown key 'system.bind'; did you mean 'network.bind'?"),
        ("[plugins.network]\nhtpp = '1'", "unknown key 'plugins.network.htpp'; did you mean 'plugins.network.http'?"),
        ("[plugins.network.limits]\nheader = 1", "unknown key 'plugins.network.limits.header'"),
        ("[plugins.netwrok]", "there is no plugin 'netwrok'; did you mean 'network'?"),
        ("[system]\ngrace_s = -1", "system.grace_s = -1 is not possible: expected float > 0.0"),
        ("[system]\ngrace_s = 'x'", "system.grace_s = 'x' is not possible: expected float, got str"),
        ("[cluster]\nprofile = 'moon'", "cluster.profile = 'moon' is not possible: invalid enum value 'moon'"),
        ("[cluster]\npartitions = 0", "cluster.partitions = 0 is not possible: expected int >= 1"),
        ("system = 3", "system = 3 is not possible: expected a section [system]"),
        ("[cluster]\nallow = ['10.0.0.1/8']", "[cluster] allow: 10.0.0.1/8 has host bits set"),
        ("[network]\nbind = 'nowhere'", "[network] 'nowhere' is not host:port"),
        ("[plugins.membership]\nack_timeout_s = 9", "[plugins.membership] ack_timeout_s (9.0) must be less than"),
        ("[system\n", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_expected(tmp_path: Path, text: str, message: str) -> None:
    """The message holds the key, the value, the expectation or the nearest known key."""
    assert message in _refusal(tmp_path, text)


def test_a_wrong_variable_or_flag_names_itself(tmp_path: Path) -> None:
    """A misspelt variable is refused, not ignored; so is a wrong value in one, and an unknown flag key."""
    assert "FRYS_CLUSTER_SEEDZ sets nothing; did you mean 'FRYS_CLUSTER_SEEDS'?" in _refusal(
        tmp_path, environ={"FRYS_CLUSTER_SEEDZ": "a"}
    )
    assert "env FRYS_SYSTEM_GRACE_S: system.grace_s = 'soon' is not possible" in _refusal(
        tmp_path, environ={"FRYS_SYSTEM_GRACE_S": "soon"}
    )
    assert "flag: unknown key 'system.nam'; did you mean 'system.name'?" in _refusal(
        tmp_path, flags={"system.nam": "a"}
    )


def test_variables_that_kubernetes_makes_of_a_service_called_frys_are_ignored(tmp_path: Path) -> None:
    """A pod must not refuse to start because of the name of its Service."""
    links = {
        "FRYS_SERVICE_HOST": "10.0.0.1",
        "FRYS_SERVICE_PORT": "8080",
        "FRYS_SERVICE_PORT_HTTP": "8080",
        "FRYS_PORT": "tcp://10.0.0.1:8080",
        "FRYS_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "FRYS_PORT_8080_TCP_ADDR": "10.0.0.1",
        "FRYS_CLIENT_SERVICE_HOST": "10.0.0.2",
        "FRYS_CLIENT_PORT_7946_UDP_PROTO": "udp",
    }
    assert set(_load(tmp_path, environ=links).origins.values()) == {"default"}


def test_a_missing_or_unreadable_file_is_a_config_error(tmp_path: Path) -> None:
    """The path is named."""
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "no.toml"))):
        load(file=tmp_path / "no.toml", plugins=())


def test_a_disabled_plugin_keeps_its_settings_and_is_not_loaded(tmp_path: Path) -> None:
    """It can be loaded later, by name."""
    config = _load(tmp_path, "[plugins.network]\nenabled = false\nhttp = '127.0.0.1:1'")
    assert config.specs == ()
    assert config.plugins["network"].http == "127.0.0.1:1"


def test_only_live_keys_may_change_without_a_restart(tmp_path: Path) -> None:
    """The log level is live, the bind address is not, and the refusal names it."""
    old = _load(tmp_path)
    live = _load(tmp_path, "[system]\nlog_level = 'debug'\n[plugins.network.limits]\nidle_s = 5")
    assert [change.path for change in changes(old, live)] == ["system.log_level", "plugins.network.limits.idle_s"]
    refuse_restart(changes(old, live))
    fixed = _load(tmp_path, "[network]\nbind = '127.0.0.1:1'")
    with pytest.raises(ReloadRefused, match=r"network\.bind \('0\.0\.0\.0:7946' -> '127\.0\.0\.1:1'\)"):
        refuse_restart(changes(old, fixed))


def test_no_two_keys_share_a_variable_and_none_is_reserved() -> None:
    """`FRYS_<SECTION>_<KEY>` must name one key."""
    schema = schema_of({name: find(name) for name in HERE})
    names = [setting.env for setting in schema.values()]
    assert sorted(set(names)) == sorted(names)
    assert not RESERVED_ENV & set(names)


def test_the_reference_page_is_current() -> None:
    """docs/configuration.md is what `python -m frys_node.config_reference` prints."""
    from frys_node.config_reference import render_reference

    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == render_reference()


def test_every_setting_is_described() -> None:
    """The reference has a sentence for each key."""
    from frys_node.config_reference import _descriptions

    schema = schema_of({name: find(name) for name in HERE})
    assert [
        s.key
        for s in schema.values()
        if not s.key.endswith((".enabled", ".module")) and not _descriptions(s.owner).get(s.field)
    ] == []


def test_every_default_is_the_one_that_the_section_declares() -> None:
    """Defaults are read without compiling the annotations, and are those that msgspec tells, factories' ones too."""

    class Section(msgspec.Struct, kw_only=True):
        wanted: int
        names: list[str] = msgspec.field(default_factory=lambda: ["a"])
        table: dict[str, int] = {}
        count: int = 3

    owners = {setting.owner for setting in schema_of({name: find(name) for name in HERE}).values()}
    for cls in (Section, *owners):
        told = {
            field.name: field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
            for field in msgspec.structs.fields(cls)
            if not field.required
        }
        assert defaults_of(cls) == told
    assert defaults_of(Section)["names"] is not defaults_of(Section)["names"]
