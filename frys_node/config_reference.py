"""Renders ``docs/configuration.md`` from the Structs: ``python -m frys_node.config_reference > docs/configuration.md``.

A test fails when the page is not what this renders. Descriptions are the strings beneath the fields.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from typing import Any

import msgspec

from frys_node.config import RESERVED_ENV, Setting, schema_of
from frys_node.kernel.registry import BUILT_IN, find

_HEAD = """\
# Configuration

One TOML file (`frys-node start --config FILE`), the environment, and flags. What comes later wins: default < profile <
file < environment < flag. `frys-node config show --origin` prints every value in force and where it came from.
`network.bind`, `network.advertise` and `plugins.network.http`, once given, hold for later starts of the same
data directory that do not give them.

Unknown keys are refused, with the nearest known one named. A key marked *live* takes effect on reload (SIGHUP); a
reload that changes any other key is refused as a whole, naming it. Lists in a variable are written `a,b`, tables
`k=v,k=v`.

This page is rendered from the code: `python -m frys_node.config_reference > docs/configuration.md`.
"""


def render_reference() -> str:
    """Return the text of the page."""
    schema = schema_of({name: find(name) for name in BUILT_IN})
    sections: dict[str, list[Setting]] = {}
    for setting in schema.values():
        sections.setdefault(setting.key.rpartition(".")[0], []).append(setting)
    parts = [_HEAD]
    for section, settings in sections.items():
        title = inspect.getdoc(settings[-1].owner) or ""
        parts.append(f"\n## `[{section}]`\n\n{title.splitlines()[0]}\n")
        parts += [_entry(setting) for setting in settings]
    parts.append("\n## Reserved variables\n\nThese are no settings and keep their own meaning: ")
    parts.append(", ".join(f"`{name}`" for name in sorted(RESERVED_ENV)) + ".\n")
    return "".join(parts)


def _entry(setting: Setting) -> str:
    facts = [_type_text(setting.hint), f"default `{_toml(setting.default)}`", f"`{setting.env}`"]
    if setting.reload == "live":
        facts.append("*live*")
    text = _descriptions(setting.owner).get(setting.field, "").replace("``", "`")
    lines = textwrap.wrap(text, 118, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join([f"\n- **`{setting.field}`** · {' · '.join(facts)}", *lines]) + "\n"


def _descriptions(owner: type[msgspec.Struct]) -> dict[str, str]:
    """Return the string that follows each field in the source of its class."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[field.target.id] = " ".join(str(below.value.value).split())
    return found


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    return str(value)


def _type_text(hint: Any) -> str:
    """Return a type with its bounds for people: ``number, > 0, <= 3600``."""
    info = msgspec.inspect.type_info(hint)
    if isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    names: dict[type, str] = {
        msgspec.inspect.IntType: "whole number",
        msgspec.inspect.FloatType: "number",
        msgspec.inspect.BoolType: "true or false",
        msgspec.inspect.StrType: "text",
        msgspec.inspect.VarTupleType: "list",
        msgspec.inspect.ListType: "list",
        msgspec.inspect.DictType: "table",
        msgspec.inspect.UnionType: "value",
    }
    if isinstance(info, msgspec.inspect.LiteralType):
        return " | ".join(f"`{value}`" for value in info.values)
    bounds = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
    limits = [f"{sign} {getattr(info, name):g}" for name, sign in bounds if getattr(info, name, None) is not None]
    if getattr(info, "max_length", None) is not None:
        limits.append(f"at most {info.max_length} long")  # type: ignore[attr-defined]
    return ", ".join([names.get(type(info), type(info).__name__), *limits])


if __name__ == "__main__":
    sys.stdout.write(render_reference())
