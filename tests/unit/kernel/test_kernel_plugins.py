"""Plugins: order, live load, unload, reload and reconfigure, and what happens when one of them fails."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from kernel_fixtures import Toy, ToyConfig, running, toy
from trio.testing import MockClock

from frys_node.base.errors import NotFound, PluginError, ReloadRefused
from frys_node.kernel.kernel import Kernel
from frys_node.kernel.lifecycle import State
from frys_node.kernel.plugins import ConfigChanged, PluginInUse
from frys_node.kernel.registry import DependencyError, PluginRejected, dependents, find, order
from frys_node.kernel.services import ServiceKey

STORE: ServiceKey[Any] = ServiceKey("store")


def test_plugins_are_ordered_by_what_they_provide_and_require() -> None:
    """Providers come first, names break ties, and services that are there already count."""
    specs = [
        toy("web", [], requires=("store", "rpc")),
        toy("store", [], provides=("store",), requires=("disk",)),
        toy("disk", [], provides=("disk",)),
        toy("alone", []),
    ]
    assert [spec.name for spec in order(specs, ["rpc"])] == ["alone", "disk", "store", "web"]
    assert [spec.name for spec in dependents("disk", order(specs, ["rpc"]))] == ["store", "web"]


def test_circles_gaps_and_doubles_are_named() -> None:
    """Each refusal says which plugins and services are at fault."""
    a, b = toy("a", [], provides=("x",), requires=("y",)), toy("b", [], provides=("y",), requires=("x",))
    with pytest.raises(DependencyError, match="circle: a -> b -> a"):
        order([a, b])
    with pytest.raises(DependencyError, match=r"'a' requires 'y'.*"):
        order([a])
    with pytest.raises(DependencyError, match="service 'x' is provided by plugin 'c' and by plugin 'a'"):
        order([a, b, toy("c", [], provides=("x",))])
    with pytest.raises(DependencyError, match="'x' is provided by plugin 'c' and by the node itself"):
        order([toy("c", [], provides=("x",))], ["x"])
    with pytest.raises(DependencyError, match="two plugins are called 'a'"):
        order([a, a])


def test_a_plugin_that_is_unknown_or_no_plugin_is_refused_with_the_fix() -> None:
    """The message names the module or the section to write."""
    with pytest.raises(PluginRejected, match="no plugin 'nosuch'") as caught:
        find("nosuch")
    assert "[plugins.nosuch] module" in caught.value.hint
    with pytest.raises(PluginRejected, match=r"'no\.such\.module' cannot be imported"):
        find("mine", "no.such.module")
    with pytest.raises(PluginRejected, match="has no class with the methods"):
        find("mine", "json")


async def _loaded(kernel: Kernel, diary: list[str], made: list[Toy], **hooks: Any) -> None:
    base = toy("base", diary, provides=("store",), made=made, **hooks)
    top = toy("top", diary, requires=("store",))
    await kernel.load_plugins([top, base], {"base": ToyConfig(), "top": ToyConfig()})


async def test_plugins_load_in_order_and_unload_in_reverse(autojump_clock: MockClock) -> None:
    """Init and load of the provider, then of its user; unload and cleanup the other way round."""
    diary: list[str] = []
    async with running() as kernel:
        await _loaded(kernel, diary, [])
        assert kernel.services.get(STORE).manifest.name == "base"
    assert diary == [
        *("base init", "base load", "top init", "top load"),
        *("top unload", "top cleanup", "base unload", "base cleanup"),
    ]


async def test_events_reach_a_plugin_only_while_it_is_loaded(autojump_clock: MockClock) -> None:
    """Topics of the manifest are subscribed with the plugin and end with it."""
    made: list[Toy] = []
    async with running() as kernel:
        await kernel.load_plugins([toy("ear", [], topics=(ConfigChanged,), made=made)], {})
        event = ConfigChanged(section="x", fields=())
        kernel.bus.publish(event)
        await kernel.control.unload("ear")
        kernel.bus.publish(event)
    assert made[0].seen == [event]


async def test_a_plugin_in_use_is_not_unloaded_and_an_unknown_one_not_found(autojump_clock: MockClock) -> None:
    """The refusal names who needs it; nothing stops."""
    async with running() as kernel:
        await _loaded(kernel, [], [])
        with pytest.raises(PluginInUse, match="'base' is needed by top"):
            await kernel.control.unload("base")
        with pytest.raises(NotFound):
            await kernel.control.unload("nosuch")
        await kernel.control.unload("top")
        await kernel.control.unload("base")
        assert [view.name for view in kernel.control.components()] == ["pulse"]
        assert kernel.services.find(STORE) is None


async def _reload_toys(kernel: Kernel, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frys_node.kernel.plugins.fresh", lambda spec: spec)
    await kernel.control.reload(name)


async def test_a_reload_takes_along_what_builds_on_the_plugin(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user is stopped first and started last, and meets the new instance."""
    diary: list[str] = []
    made: list[Toy] = []
    async with running() as kernel:
        await _loaded(kernel, diary, made)
        diary.clear()
        await _reload_toys(kernel, "base", monkeypatch)
        assert diary == [
            *("top unload", "top cleanup", "base unload", "base cleanup"),
            *("base init", "base load", "top init", "top load"),
        ]
        assert kernel.services.get(STORE) is made[1]


async def test_a_reload_that_does_not_start_says_what_is_gone(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node goes on without the plugin and its user; both are named."""
    made: list[Toy] = []

    def second_time(plugin: Toy) -> None:
        if len(made) > 1:
            raise OSError("disk gone")

    async with running() as kernel:
        await _loaded(kernel, [], made, load=second_time)
        with pytest.raises(
            PluginError, match=r"'base' did not start: OSError: disk gone; .*nobody provides|'base' did"
        ):
            await _reload_toys(kernel, "base", monkeypatch)
        assert [view.name for view in kernel.control.components()] == ["pulse"]


async def test_a_crash_of_a_provider_restarts_its_user_too(autojump_clock: MockClock) -> None:
    """The user must not hold a service of an instance that is gone."""
    diary: list[str] = []
    made: list[Toy] = []

    async def crash() -> None:
        raise RuntimeError("background task")

    async with running() as kernel:
        await _loaded(kernel, diary, made)
        assert made[0].context is not None
        made[0].context.nursery.start_soon(crash)
        await trio.sleep(5)
        assert diary.count("base load") == diary.count("top load") == 2
        assert diary.count("top cleanup") == 1
        assert [view.state for view in kernel.control.components()] == ["ready"] * 3
        assert kernel.services.get(STORE) is made[-1]


async def test_a_plugin_that_fails_at_boot_does_not_stop_the_node(autojump_clock: MockClock) -> None:
    """It is retried, then failed; its user fails with it; the node is up and not ready."""

    def refuse(plugin: Toy) -> None:
        raise OSError("no disk")

    async with running() as kernel:
        await _loaded(kernel, [], [], init=refuse)
        kernel.mark_started()
        await trio.sleep(120)
        states = {view.name: (view.state, view.error) for view in kernel.control.components()}
        assert states["base"] == ("failed", "OSError: no disk")
        assert states["top"][0] == State.FAILED
        assert "requires store, which nobody provides" in states["top"][1]
        assert not kernel.control.is_ready()


async def test_a_manifest_must_say_what_init_provides(autojump_clock: MockClock) -> None:
    """An undeclared service would break the order of a later start."""

    def extra(plugin: Toy) -> None:
        assert plugin.context is not None
        plugin.context.provide(ServiceKey("secret"), plugin)

    async with running() as kernel:
        await kernel.load_plugins([toy("sly", [], init=extra)], {})
        view = kernel.control.components()[-1]
        assert "declares [] and provides ['secret']" in view.error
        assert kernel.services.names() == ["node"]


async def test_a_config_change_is_applied_by_all_plugins_or_by_none(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the second plugin refuses, the first is put back; without refusals the change is published."""
    diary: list[str] = []
    monkeypatch.setattr("frys_node.kernel.cell.reload_classes", lambda cls: {"volume": "live"})
    refusing = True

    def refuse(plugin: Toy) -> None:
        if refusing:
            raise ReloadRefused("not now")

    async with running() as kernel:
        plugins = [toy("a", diary), toy("b", diary, config=refuse)]
        await kernel.load_plugins(plugins, {"a": ToyConfig(), "b": ToyConfig()})
        diary.clear()
        new = {"a": ToyConfig(volume=2), "b": ToyConfig(volume=3)}
        with pytest.raises(ReloadRefused, match="not now"):
            await kernel.reconfigure(new)
        assert diary == ["a config 1->2", "b config 1->3", "a config 2->1"]
        refusing = False
        heard: list[ConfigChanged] = []
        kernel.bus.on(ConfigChanged, heard.append)
        changes = await kernel.reconfigure(new)
        assert [change.path for change in changes] == ["plugins.a.volume", "plugins.b.volume"]
        assert [(event.section, event.fields) for event in heard] == [
            ("plugins.a", ("plugins.a.volume",)),
            ("plugins.b", ("plugins.b.volume",)),
        ]


async def test_a_setting_that_needs_a_restart_is_refused_by_name(autojump_clock: MockClock) -> None:
    """No plugin hears of the change."""
    diary: list[str] = []
    async with running() as kernel:
        await kernel.load_plugins([toy("a", diary)], {"a": ToyConfig()})
        diary.clear()
        with pytest.raises(ReloadRefused, match=r"plugins\.a\.volume \(1 -> 2\)"):
            await kernel.reconfigure({"a": ToyConfig(volume=2)})
        assert diary == []


@pytest.mark.parametrize("turn", range(1, 14))
async def test_a_live_load_cancelled_at_any_point_is_all_or_nothing(
    turn: int, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G1 for a load: the plugin is there and ready, or there is no trace of it and it can be loaded again."""
    diary: list[str] = []
    spec = toy("base", diary, provides=("store",))
    monkeypatch.setattr("frys_node.kernel.plugins.find", lambda name, module: spec)

    class Countdown(trio.abc.Instrument):
        left = turn

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.left -= 1
            if self.left == 0:
                scope.cancel()

    async with running() as kernel:
        countdown = Countdown()
        with trio.CancelScope() as scope:
            trio.lowlevel.add_instrument(countdown)
            try:
                await kernel.control.load("base")
            finally:
                trio.lowlevel.remove_instrument(countdown)
        names = [view.name for view in kernel.control.components()]
        if "base" in names:
            assert [view.state for view in kernel.control.components()] == ["ready", "ready"]
            assert kernel.services.find(STORE) is not None
        else:
            assert kernel.services.find(STORE) is None
            assert diary.count("base init") == diary.count("base cleanup")
            await kernel.control.load("base")


PLUGIN = '''
from frys_node.kernel.plugin import PluginManifest

class Mine:
    """A plugin from outside."""
    def metadata(self):
        return PluginManifest(name="mine", version="{version}")
    async def init(self, context): ...
    async def on_load(self): ...
    def handle_message(self, message): ...
    async def on_config_change(self, old, new): ...
    async def on_unload(self): ...
    async def cleanup(self): ...
'''


async def test_a_plugin_of_the_users_own_is_loaded_reloaded_with_new_code_and_unloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """`module` names it; a reload reads the changed file; broken code is refused and the running one stays."""
    module = tmp_path / "outside_plugin.py"
    module.write_text(PLUGIN.format(version="1"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    async with running() as kernel:
        await kernel.load_plugins([], {}, {"mine": "outside_plugin"})
        await kernel.control.load("mine")
        module.write_text(PLUGIN.format(version="2.0"))
        await kernel.control.reload("mine")
        assert kernel.control.components()[-1].version == "2.0"
        module.write_text("raise RuntimeError('typo')")
        with pytest.raises(PluginRejected, match="typo"):
            await kernel.control.reload("mine")
        assert kernel.control.components()[-1].state == "ready"
        await kernel.control.unload("mine")
        assert [view.name for view in kernel.control.components()] == ["pulse"]
