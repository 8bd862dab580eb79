"""What holds in these processes and in those that they start.

One thread for arithmetic: more would spin as they wait for each other where several processes share
a few cores: on two cores a step of training then takes six times as long. And an interrupt is
heeded, although a shell that begins the tests in the background has it ignored. And the kernels of
arithmetic are the same on every processor.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings
from support.numerics import pin
from support.s3 import S3Server, served_s3

pin()
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("fednot", deadline=None)  # a busy machine is no finding
settings.load_profile("fednot")
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests come by their limits, the longest first, lest one begin when the rest ends."""
    items.sort(key=_limit_of_long, reverse=True)


def _limit_of_long(item: pytest.Item) -> float:
    limit = item.get_closest_marker("timeout")
    if limit is None or item.get_closest_marker("long") is None:
        return 0.0
    return float(limit.args[0])


@pytest.fixture(autouse=True)
def logging_is_left_as_it_was() -> Iterator[None]:
    """Whatever a test calls in this process: command lines and servers set up what they log."""
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], sys.excepthook = handlers, hook
    root.setLevel(level)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that speaks S3; a test without what that takes is skipped."""
    with served_s3(tmp_path_factory.mktemp("s3") / "log") as server:
        yield server


@pytest.fixture
def s3_variables(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The same, and this process finds it by the standard variables of AWS."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server
