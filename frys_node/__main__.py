"""`python -m frys_node`: the same as the `frys-node` command."""

from __future__ import annotations

import sys

from frys_node.cli.main import main

sys.exit(main())
