"""The node-to-node channel: authenticated connections, multiplexed calls and notes, and the way into a cluster."""

from __future__ import annotations
