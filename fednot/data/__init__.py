"""Readers of data on disk as SampleDatasets: samples in order, each with a stable id.

Inputs are float32, images of shape [C, H, W] in [0, 1]; targets are int classes. Every reader takes
`shard="I/N"` to keep every N-th sample from the I-th on, gives whole batches at once, which the
default training loop uses, and tells a sample's class (`target`) without reading the sample.
"""

from fednot.data.cifar import Cifar10, Cifar100
from fednot.data.errors import DataError
from fednot.data.images import ImageFolder
from fednot.data.in_memory import InMemoryDataset
from fednot.data.npz import NpzDataset
from fednot.data.subset import Subset, shard, shard_indices

__all__ = [
    "Cifar10",
    "Cifar100",
    "DataError",
    "ImageFolder",
    "InMemoryDataset",
    "NpzDataset",
    "Subset",
    "shard",
    "shard_indices",
]
