"""Fixtures of the tidy tests."""

from __future__ import annotations

import pytest
from tidy_checkout import Checkout


@pytest.fixture(scope="session")
def checkout() -> Checkout:
    """The checkout that these tests stand in."""
    return Checkout.load()
