"""Renders docs/configuration.md from the settings' own Structs: ``python tests/tidy/tidy_configuration.py --write``."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
import typing
from pathlib import Path
from typing import Annotated, Any

import msgspec

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "configuration.md"
HEAD = """# Configuration

Written by `python tests/tidy/tidy_configuration.py --write` from the code; do not edit.

Order: default, profile, file (`--config FILE.toml`), environment, flag; later wins. Unknown keys and impossible values
are refused by name, and change nothing. `frys-node config show` prints the settings in force and where each came from.
*live* settings are taken over without a restart.
"""


def descriptions(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Return field -> the text beneath it in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(struct))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            assert isinstance(text, ast.Expr)
            assert isinstance(text.value, ast.Constant)
            found[field.target.id] = re.sub(r"\s+", " ", str(text.value.value)).strip()
    return found


def bounds(hint: Any) -> str:
    """Say what a type allows, in words of one line."""
    if typing.get_origin(hint) is Annotated:
        base, *metas = typing.get_args(hint)
        limits = [
            f"{word} {getattr(meta, name):,}"
            for meta in metas
            if isinstance(meta, msgspec.Meta)
            for name, word in (("gt", "above"), ("ge", "from"), ("lt", "below"), ("le", "to"))
            if getattr(meta, name) is not None
        ]
        return " ".join([bounds(base), *limits])
    if typing.get_origin(hint) is typing.Literal:
        return " ".join(f"`{value}`" for value in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"list of {bounds(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is dict:
        return "table"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(hint, str(hint))


def render() -> str:
    """Return the page."""
    from frys_node.config import load, schema_of

    schema = schema_of({spec.manifest.name: spec for spec in load().specs})
    # A plugin's own Struct comes after the switch that every plugin has, so the last owner describes the section.
    owners = {setting.key.rpartition(".")[0]: setting.owner for setting in schema.values()}
    lines = [HEAD.rstrip("\n")]
    section = ""
    for setting in schema.values():
        parent = setting.key.rpartition(".")[0]
        if parent != section:
            section = parent
            about = (inspect.getdoc(owners[section]) or "").split("\n")[0].replace("``", "`")
            lines += ["", f"## [{section}]", "", about, "", "| key | default | allowed | |", "|---|---|---|---|"]
        default = msgspec.json.encode(setting.default).decode()
        text = descriptions(setting.owner).get(setting.field, "")
        live = " *live*" if setting.reload == "live" else ""
        row = f"| `{setting.field}` | `{default}` | {bounds(setting.hint)} | {text}{live} `{setting.env}` |"
        lines.append(row.replace("``", "`"))
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or say whether it is current."""
    wanted = render()
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted:
        return 0
    if arguments == ["--write"]:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    print("run `python tests/tidy/tidy_configuration.py --write`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
