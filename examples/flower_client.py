"""An existing Flower client, unchanged, as a Task of fednot; `make_task` is all that is added."""

from __future__ import annotations

from collections import OrderedDict

import torch
from flwr.client import NumPyClient

import fednot.flower
from fednot.data.mnist5k import mnist5k
from fednot.zoo.cnn import Cnn


class DigitsClient(NumPyClient):
    def __init__(self, part: int, parts: int):
        self.model = build_model()
        digits = mnist5k()
        order = torch.randperm(5000, generator=torch.Generator().manual_seed(0))[part::parts]
        self.inputs, self.labels = digits.inputs[order], digits.targets[order]

    def get_parameters(self, config):
        return [tensor.cpu().numpy() for tensor in self.model.state_dict().values()]

    def set_parameters(self, parameters):
        names = self.model.state_dict().keys()
        pairs = zip(names, parameters, strict=True)
        state = OrderedDict((name, torch.tensor(array)) for name, array in pairs)
        self.model.load_state_dict(state)

    def fit(self, parameters, config):
        self.set_parameters(parameters)
        optimiser = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        for start in range(0, len(self.labels), 32):
            optimiser.zero_grad()
            answers = self.model(self.inputs[start : start + 32])
            loss = torch.nn.functional.cross_entropy(answers, self.labels[start : start + 32])
            loss.backward()
            optimiser.step()
        return self.get_parameters({}), len(self.labels), {"loss": float(loss)}

    @torch.no_grad()
    def evaluate(self, parameters, config):
        self.set_parameters(parameters)
        answers = self.model(self.inputs)
        loss = torch.nn.functional.cross_entropy(answers, self.labels)
        accuracy = (answers.argmax(dim=1) == self.labels).double().mean()
        return float(loss), len(self.labels), {"accuracy": float(accuracy), "chance": 0.1}


def build_model():
    return Cnn(widths=(4, 8), hidden=32)


def make_task(part="0", parts="10"):
    size = len(range(int(part), 5000, int(parts)))
    return fednot.flower.task(
        lambda: DigitsClient(int(part), int(parts)),
        build_model=build_model,
        num_train_examples=size,
        num_test_examples=size,
    )
