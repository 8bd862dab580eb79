"""What fuzzing once found, and the seeds that it begins with, replayed."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1] / "fuzz"
TARGETS = ("decoders", "upload_stream", "model_reader")


def target_of(name: str) -> ModuleType:
    return importlib.import_module(f"fuzz.{name}")


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_break_nothing(name: str) -> None:
    target = target_of(name)
    for seed in target.seeds():
        target.try_one(seed)


def test_what_was_found_once_breaks_nothing_now() -> None:
    for path in sorted(ROOT.glob("corpus/*/*")):
        target_of(path.parent.name).try_one(path.read_bytes())


def test_every_request_of_every_service_has_a_reader() -> None:
    decoders = target_of("decoders")
    assert len(decoders.READERS) > 50
    assert {"JoinRequest", "UnlearnRequest", "AdvertiseKeysRequest"} <= set(decoders.READERS)
