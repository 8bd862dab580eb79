"""Error feedback: what a codec lost of one update is added to the next one.

A codec that rounds coarsely or leaves most elements out would bias training if its losses were
gone. The client keeps them instead, in float32, so that what the server has received after any
number of rounds differs from what was trained by one residual only (Seide et al. 2014; Stich et al.
2018, arXiv 1809.07599; Karimireddy et al. 2019, arXiv 1901.09847, algorithm 1).

The residual is made of the client's data. It is in memory only, it is overwritten when the client
is told to forget, and it never crosses from one generation to the next.
"""

from __future__ import annotations

import threading

import torch

from client.destroyed import Destroyed, destroy
from fednot.codecs import Codec
from fednot.manifest import Manifest
from fednot.runs import tensor_at
from fednot.tensors import views


class Residual:
    """The residual of one client with one codec and one model; safe to use from several threads.

    One proposal is open at a time: `propose`, then `accepted` or `dropped`. It holds two float32
    numbers for each coded element from the first proposal on, and nothing if the codec does not
    feed back. `codec` is the one that it was made for.
    """

    def __init__(self, codec: Codec, manifest: Manifest) -> None:
        self.codec = codec
        self._manifest = manifest
        self._places: dict[str, slice] = {}
        self._numel = 0
        for spec in manifest:
            if codec.feeds_back and codec.codes(spec):
                self._places[spec.name] = slice(self._numel, self._numel + spec.numel)
                self._numel += spec.numel
        self._lock = threading.Lock()
        self._generation: int | None = None
        self._kept: torch.Tensor | None = None
        self._open: torch.Tensor | None = None
        self._proposed = False
        self._can_take_back = False

    def propose(self, update: torch.Tensor, generation: int) -> torch.Tensor:
        """The payload of a flat update plus the residual of its generation; the update stays as is.

        A residual of another generation is destroyed first. A proposal that is still open counts as
        dropped. Raises ValueError if the update has another size than the manifest or a sum is not
        finite; the residual stays as it was.
        """
        with self._lock:
            if generation != self._generation:
                self._destroy()
                self._generation = generation
            self._proposed = self._can_take_back = False
            if not self._places:
                return self.codec.encode(update, self._manifest)
            return self._proposal(update)

    def accepted(self) -> None:
        """Keeps what the open proposal lost: the server has counted it. Without one, nothing."""
        with self._lock:
            if self._proposed:
                self._kept, self._open = self._open, self._kept
                self._proposed, self._can_take_back = False, True

    def dropped(self) -> None:
        """Keeps the residual from before the open proposal: the server has not counted it."""
        with self._lock:
            self._proposed = False

    def take_back(self) -> None:
        """Undoes the last `accepted`: the server lost what it had counted, and asks for it again.

        Nothing if a proposal was made since.
        """
        with self._lock:
            if self._can_take_back:
                self._kept, self._open = self._open, self._kept
                self._can_take_back = False

    def is_before(self, generation: int) -> bool:
        """Whether what is kept is of an older generation."""
        with self._lock:
            return self._generation is not None and self._generation < generation

    def destroy(self) -> list[Destroyed]:
        """Overwrites the residual with zeros and lets it go, an open proposal's too; tells what it
        held.

        It waits for a proposal that is being made. `accepted` brings nothing back afterwards.
        """
        with self._lock:
            held = [tensor for tensor in (self._kept, self._open) if tensor is not None]
            gone = [destroy("residual", tensor) for tensor in held]
            self._destroy()
            return gone

    def _destroy(self) -> None:
        for held in (self._kept, self._open):
            if held is not None:
                held.zero_()
        self._kept = self._open = self._generation = None
        self._proposed = self._can_take_back = False

    def _proposal(self, update: torch.Tensor) -> torch.Tensor:
        tensors = dict(views(update, self._manifest))
        if self._kept is None:
            self._kept = torch.zeros(self._numel)
        if self._open is None:
            self._open = torch.empty(self._numel)
        for name, place in self._places.items():
            torch.add(self._kept[place], tensors[name].view(-1), out=self._open[place])
            tensors[name] = self._open[place]
        payload = self.codec.encode_tensors(tensors, self._manifest)
        self._subtract(payload, self._open)
        self._proposed = True
        return payload

    def _subtract(self, payload: torch.Tensor, wanted: torch.Tensor) -> None:
        for piece in self.codec.pieces(payload, self._manifest):
            name = tensor_at(self._manifest, piece.byte_offset)
            if name in self._places:
                spec = self._manifest[name]
                index = (piece.byte_offset - spec.byte_offset) // spec.torch_dtype.itemsize
                start = self._places[name].start + index
                wanted[start : start + piece.values.numel()].sub_(piece.values)
