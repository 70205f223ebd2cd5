"""The demonstration behind `frys-node demo`."""

from __future__ import annotations
