"""How state moves: manifests, chunks and the transfer machine."""

from __future__ import annotations
