"""Services that can be loaded, replaced and unloaded while the node runs."""

from __future__ import annotations
