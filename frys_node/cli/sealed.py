"""Options of `snapshot keygen`, `export`, `import` and `inspect`; what they do is loaded when it is asked for."""

from __future__ import annotations

import argparse
from typing import Final

from frys_node.cli import arguments as given
from frys_node.cli.admin import add_common
from frys_node.secure.kem import PROVIDERS

ACTIONS: Final = frozenset({"keygen", "export", "import", "inspect"})
KEY_FILE: Final = "frys-snapshot.key"
SUFFIX: Final = ".sealed"
KEY_HELP: Final = "the key's file (mode 0600), or - for standard input"


def add_arguments(actions: argparse._SubParsersAction[argparse.ArgumentParser], store: str, timeout_s: float) -> None:
    """Declare the actions; `store` is the help of --store."""
    keygen = actions.add_parser(
        "keygen",
        help="make a key that exports are sealed to",
        description="Writes the key to FILE, which only you can read, and the recipient to FILE.pub. Keep the key away "
        "from the cluster: whoever has it reads every export that is sealed to it, and without it nobody does.",
    )
    keygen.add_argument("--out", metavar="FILE", default=KEY_FILE, help="the key's file (default %(default)s)")
    keygen.add_argument(
        "--provider", choices=PROVIDERS, default=PROVIDERS[0], help="whose ML-KEM-768 makes and uses the key"
    )
    export = actions.add_parser(
        "export",
        help="write a saved snapshot into one sealed file",
        description="The file holds all of the snapshot, and only the recipients' keys open it.",
    )
    export.add_argument("name", type=given.name)
    export.add_argument(
        "--to",
        action="append",
        required=True,
        metavar="RECIPIENT",
        help="who can open it: frysr1..., or a file with such lines; repeatable",
    )
    export.add_argument(
        "--out", metavar="FILE", help=f"the sealed file (default NAME{SUFFIX}), never replaced; - for a pipe"
    )
    bring = actions.add_parser(
        "import",
        help="put a sealed file's snapshot into a place, for `restore`",
        description="Nothing is changed unless the whole file is proven. `snapshot restore` brings the data back.",
    )
    inspect = actions.add_parser(
        "inspect",
        help="tell what a sealed file is; with its key, whether it is whole and what is in it",
        description="Needs no node.",
    )
    for sub in (bring, inspect):
        sub.add_argument("file", metavar="FILE", type=given.name)
        sub.add_argument("--key", metavar="KEYFILE", required=sub is bring, help=KEY_HELP)
    bring.add_argument("--name", type=given.name, help="the snapshot's name there (default: as it was saved)")
    for sub in (export, bring):
        sub.add_argument("--store", "--directory", metavar="PLACE", default="", help=store)
        add_common(sub)
        sub.set_defaults(timeout=timeout_s)
    for sub in (keygen, inspect):
        sub.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace, store: str) -> int:
    """Run the chosen action; `store` is the place as the node understands it."""
    # Cryptography takes longer to load than all the rest of a command does.
    from frys_node.cli import sealed_actions

    return sealed_actions.run(arguments, store)
