"""The reader of model files: a header may say what it likes, and costs no more than its bytes."""

from __future__ import annotations

import io

import torch
from support.manifests import manifest_of

from fednot import model_file
from fednot.model_file import ModelFileError, Source
from fednot.tensors import empty

SMALL = (
    manifest_of(weight=("F32", (2, 3)), bias=("F32", (2,))),
    manifest_of(steps=("I64", ()), half=("F16", (5,)), mask=("BOOL", (3,)), none=("F32", (0, 4))),
)


def try_one(data: bytes) -> None:
    """Describes a file and reads its tensors; what is raised but ModelFileError is a finding."""
    source = Source("the file", len(data), io.BytesIO(data))  # type: ignore[arg-type]
    try:
        found = model_file.describe(source)
        padding = 8 * len(found.manifest.tensors)
        if found.manifest.nbytes > len(data) + padding:
            raise AssertionError("a manifest describes more than the file holds")
        flat = empty(found.manifest)
        for _ in model_file.fill(flat, found, source):
            pass
        for _ in model_file.flat_bytes(found, source):
            pass
    except ModelFileError:
        return


def seeds() -> list[bytes]:
    """Whole files of small models."""
    return [
        model_file.serialise(torch.zeros(manifest.nbytes, dtype=torch.uint8), manifest)
        for manifest in SMALL
    ]
