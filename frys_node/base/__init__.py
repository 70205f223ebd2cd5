"""The floor: identifiers, errors, deadlines and the ports. Imports nothing of frys."""

from __future__ import annotations
