"""Tests that CI has no time for: what they look at hardly changes, or another test is close by."""

import os

import pytest

rare = pytest.mark.skipif("PADIM_ALL" not in os.environ, reason="takes long; set PADIM_ALL=1")
