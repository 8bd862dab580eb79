"""Hypothesis for all tests: how long an example takes on a busy machine is no finding."""

from hypothesis import settings

settings.register_profile("fednot", deadline=None)
settings.load_profile("fednot")
