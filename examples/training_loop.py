"""A training script of one's own: `fednot-client --task examples/training_loop.py` runs it."""

from __future__ import annotations

import argparse

import torch

import fednot.loop
from fednot.data.mnist5k import mnist5k
from fednot.data.subset import shard
from fednot.zoo.cnn import Cnn

arguments = argparse.ArgumentParser()
arguments.add_argument("--part", default="0/10")
part = arguments.parse_args().part

model = Cnn(widths=(4, 8), hidden=32)
digits = mnist5k()

with fednot.loop.join(model, train_data=shard(digits, part)) as federation:
    for work in federation:  # receive: the model holds the federation's weights
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        loader = torch.utils.data.DataLoader(work.data, batch_size=32, shuffle=True)
        for inputs, labels in loader:
            if work.is_over:
                break
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            optimiser.step()
        work.send(num_examples=len(work.data), metrics={"loss": float(loss.detach())})
print("the loop has ended, since the client stops", flush=True)
