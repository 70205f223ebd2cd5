"""The node-to-node channel: multiplexed, encrypted, owner of the cluster's TCP port."""

from __future__ import annotations
