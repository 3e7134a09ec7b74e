"""What tests of the real lab need."""

from __future__ import annotations

import os
import sys

import pytest


@pytest.fixture
def root_user() -> None:
    """Skips where there are no network namespaces and cgroups to be had."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs Linux and root")
