"""Vector search behind Qdrant's REST dialect."""

from __future__ import annotations
