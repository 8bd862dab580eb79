"""What a new federation starts from: the Task's model, or a model file."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from fednot import model_file
from fednot.layers import LayerMap, layer_map
from fednot.manifest import Manifest
from fednot.task import Task
from fednot.tensors import flatten_module
from server.global_model import InitialModel

log = logging.getLogger("server.initial_model")


def from_task(task: Task, seed: int) -> InitialModel:
    """Builds the model with seeded weights and traces which layer feeds which."""
    torch.manual_seed(seed)
    model = task.build_model()
    manifest = Manifest.of(model)
    layers = layer_map(
        manifest,
        model=model,
        example_input=task.example_input(),
        first_layers=task.first_layers(model),
    )
    return InitialModel(flatten_module(model, manifest), manifest, _warned(layers))


def from_file(path: Path) -> InitialModel:
    """Reads a model file. Raises ModelFileError if it is none."""
    flat, manifest, layers = model_file.read(path)
    found = LayerMap.from_json(layers) if layers else layer_map(manifest)
    return InitialModel(flat, manifest, _warned(found))


def _warned(layers: LayerMap) -> LayerMap:
    if layers.warning:
        log.warning("%s", layers.warning)
    return layers
