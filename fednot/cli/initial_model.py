"""Builds a Task's initial model as the bytes of a model file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fednot import model_file
from fednot.cli.failures import local
from fednot.manifest import Manifest, ManifestError
from fednot.task_loading import TaskLoadError, load_task
from fednot.tensors import flatten_module


@dataclass(frozen=True)
class InitialModel:
    """A model file's bytes and the manifest in it."""

    payload: bytes
    manifest: Manifest


def build(place: str, arguments: Sequence[str], seed: int) -> InitialModel:
    """Builds the model with weights that the seed determines. Raises CliError."""
    from fednot.layers import layer_map

    torch.manual_seed(seed)
    try:
        task = load_task(place, tuple(arguments))
        model = task.build_model()
        manifest = Manifest.of(model)
    except (TaskLoadError, ManifestError) as error:
        raise local(str(error), "Correct --task or --task-arg.") from error
    layers = layer_map(
        manifest,
        model=model,
        example_input=task.example_input(),
        first_layers=task.first_layers(model),
    )
    flat = flatten_module(model, manifest)
    return InitialModel(model_file.serialise(flat, manifest, layers=layers.to_json()), manifest)
