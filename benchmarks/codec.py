"""What each codec saves in bytes and costs in time and in accuracy on real digits.

Speed is that of one thread over 100 MB of float32 in 20 tensors; GB are those of the plain update.
Accuracy is that of a FedAvg of five clients on the demonstration's digits, in this process: the
same seeds for each codec, updates encoded with error feedback, and averaged from their pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from benchmarks.timing import median_seconds
from client.residual import Residual
from fednot.codecs import Codec, codec_of
from fednot.demo.digits import DigitsTask
from fednot.manifest import Manifest
from fednot.tensors import difference, empty, flatten_module, load_into, views
from fednot.training import TrainContext

CODECS: Final = {
    "none": codec_of("none"),
    "bf16": codec_of("bf16"),
    "fp16": codec_of("fp16"),
    "int8": codec_of("int8"),
    "topk_1": codec_of("topk", 0.01),
    "topk_10": codec_of("topk", 0.1),
}
"""What is measured; topk keeps 1 % and 10 %."""
TENSORS: Final = 20
CLIENTS: Final = 5
ROUNDS: Final = 8


@dataclass(frozen=True)
class Speed:
    """Plain GB/s of encoding and of going through all pieces, and encoded over plain bytes."""

    encode: float
    decode: float
    share: float


def speed(codec: Codec) -> Speed:
    """Measures a codec on 100 MB of normal values."""
    layers = [torch.nn.Linear(1250, 1000, bias=False) for _ in range(TENSORS)]
    manifest = Manifest.of(torch.nn.Sequential(*layers))
    update = empty(manifest)
    generator = torch.Generator().manual_seed(0)
    for view in views(update, manifest).values():
        view.normal_(std=1e-3, generator=generator)
    payload = codec.encode(update, manifest)
    encode = median_seconds(lambda: codec.encode(update, manifest))
    decode = median_seconds(lambda: sum(1 for _ in codec.pieces(payload, manifest)))
    gigabytes = manifest.nbytes / 1e9
    return Speed(gigabytes / encode, gigabytes / decode, payload.numel() / manifest.nbytes)


class Digits:
    """FedAvg over the demonstration's clients, none of them poisoned.

    Without `feed_back` what a codec loses is gone, for comparison.
    """

    def __init__(self, feed_back: bool = True) -> None:
        self._tasks = [DigitsTask(str(client), str(CLIENTS), "0", "0") for client in range(CLIENTS)]
        self._data = [task.train_data() for task in self._tasks]
        self._server = DigitsTask(clients=str(CLIENTS), poisoned="0")
        self._feed_back = feed_back

    def accuracy(self, codec: Codec, rounds: int = ROUNDS) -> tuple[float, float]:
        """Accuracy on the test digits after so many rounds, and encoded over plain bytes."""
        torch.manual_seed(0)
        model = self._server.build_model()
        manifest = Manifest.of(model)
        residuals = [Residual(codec, manifest) for _ in range(CLIENTS)]
        for number in range(rounds):
            given = flatten_module(model, manifest)
            new = given.clone()
            for client, residual in enumerate(residuals):
                payload = self._sent(self._trained(client, number, given, manifest), residual)
                _add(new, codec.decode(payload, manifest), manifest)
            load_into(model, new, manifest)
        data = self._server.test_data()
        if data is None:
            raise RuntimeError("the demonstration's server has no test digits")
        scores = self._server.evaluate(model, data, torch.device("cpu"))
        return scores["accuracy"], codec.size(manifest) / manifest.nbytes

    def _sent(self, update: torch.Tensor, residual: Residual) -> torch.Tensor:
        payload = residual.propose(update, 0)
        if self._feed_back:
            residual.accepted()
        return payload

    def _trained(
        self, client: int, number: int, given: torch.Tensor, manifest: Manifest
    ) -> torch.Tensor:
        task = self._tasks[client]
        model = task.build_model()
        load_into(model, given, manifest)
        context = TrainContext(torch.device("cpu"), number * CLIENTS + client, number)
        task.train(model, self._data[client], context)
        return difference(flatten_module(model, manifest), given, manifest)


def _add(model: torch.Tensor, update: torch.Tensor, manifest: Manifest) -> None:
    # All clients have equally many digits.
    updates = views(update, manifest)
    for name, view in views(model, manifest).items():
        view.add_(updates[name], alpha=1 / CLIENTS)


def measured() -> dict[str, dict[str, float]]:
    """The figures of each codec, for the summary; about two minutes on a core to itself."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        digits = Digits()
        return {name: _row(codec, digits) for name, codec in CODECS.items()}
    finally:
        torch.set_num_threads(threads)


def _row(codec: Codec, digits: Digits) -> dict[str, float]:
    fast = speed(codec)
    accuracy, share = digits.accuracy(codec)
    return {
        "encode_gb_s": fast.encode,
        "decode_gb_s": fast.decode,
        "bytes_ratio_100mb": fast.share,
        "bytes_ratio_digits": share,
        "accuracy_digits": accuracy,
    }


def lines(found: dict[str, dict[str, float]]) -> Iterator[str]:
    """A line for each codec, its accuracy beside that of none."""
    plain = found["none"]["accuracy_digits"]
    for name, row in found.items():
        encode, decode = row["encode_gb_s"], row["decode_gb_s"]
        # The codec none copies nothing, so its speed says nothing.
        pace = f"encoded at {encode:.2f} GB/s, read at {decode:.1f} GB/s" if name != "none" else ""
        yield (
            f"codec {name}: {row['bytes_ratio_100mb']:.3f} of the bytes, {pace or 'not copied'}; "
            f"digits {row['accuracy_digits']:.3f} after {ROUNDS} rounds "
            f"({row['accuracy_digits'] - plain:+.3f}) with {row['bytes_ratio_digits']:.3f} of them"
        )


def figures() -> Iterator[str]:
    """A line for each codec."""
    return lines(measured())
