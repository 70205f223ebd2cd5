"""Who is here: SWIM membership."""

from __future__ import annotations
