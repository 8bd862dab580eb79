"""What a new federation starts from: the Task's model, or a model file."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from fednot import model_file
from fednot.layer_map import LayerMap
from fednot.manifest import Manifest
from fednot.task import Task
from fednot.task_loading import calling
from fednot.tensors import flatten_module
from server.global_model import InitialModel

log = logging.getLogger("server.initial_model")


def from_task(task: Task, seed: int) -> InitialModel:
    """Builds the model with seeded weights; which layer feeds which is traced when asked for."""
    torch.manual_seed(seed)
    model = task.build_model()
    manifest = Manifest.of(model)
    return InitialModel(
        flatten_module(model, manifest), manifest, lambda: _traced(task, model, manifest)
    )


def from_file(path: Path) -> InitialModel:
    """Reads a model file. Raises ModelFileError if it is none."""
    flat, manifest, layers = model_file.read(path)
    return InitialModel(flat, manifest, lambda: _stored(layers, manifest))


def _traced(task: Task, model: nn.Module, manifest: Manifest) -> LayerMap:
    from fednot.layers import layer_map

    with calling(type(task).__name__):
        found = layer_map(
            manifest,
            model=model,
            example_input=task.example_input(),
            first_layers=task.first_layers(model),
        )
    return _warned(found)


def _stored(layers: str, manifest: Manifest) -> LayerMap:
    from fednot.layers import layer_map

    return _warned(LayerMap.from_json(layers) if layers else layer_map(manifest))


def _warned(layers: LayerMap) -> LayerMap:
    if layers.warning:
        log.warning("%s", layers.warning)
    return layers
