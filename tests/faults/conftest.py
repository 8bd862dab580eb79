"""Assertions of the scenarios say what they found, as those of tests do."""

import pytest

pytest.register_assert_rewrite("support.faults")
