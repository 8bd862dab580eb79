"""Builds a Task's initial model as the bytes of a model file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fednot import model_file
from fednot.cli.failures import CliError, local, of_refusal
from fednot.errors import FednotError
from fednot.layers import LayerMap, layer_map
from fednot.manifest import Manifest, ManifestError
from fednot.task import Task
from fednot.task_loading import TaskLoadError, load_task
from fednot.tensors import flatten_module


@dataclass(frozen=True)
class InitialModel:
    """A model file's bytes, with the manifest and the layer map that are in it."""

    payload: bytes
    manifest: Manifest
    layers: LayerMap


def build(place: str, arguments: Sequence[str], seed: int) -> InitialModel:
    """Builds the model with weights that the seed determines. Raises CliError."""
    torch.manual_seed(seed)
    try:
        return _built(load_task(place, tuple(arguments)))
    except (TaskLoadError, ManifestError) as error:
        raise local(str(error), "Correct the Task, --task or --task-arg.") from error
    except FednotError as error:
        raise _of_layers(error) from error


def _built(task: Task) -> InitialModel:
    model = task.build_model()
    manifest = Manifest.of(model)
    layers = layer_map(
        manifest,
        model=model,
        example_input=task.example_input(),
        first_layers=task.first_layers(model),
    )
    flat = flatten_module(model, manifest)
    payload = model_file.serialise(flat, manifest, layers=layers.to_json())
    return InitialModel(payload, manifest, layers)


def _of_layers(error: FednotError) -> CliError:
    refusal = of_refusal(error)
    return local(refusal.message, refusal.remedy)
