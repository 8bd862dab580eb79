"""Encodings as the session agreed; what they leave out is kept, dropped or destroyed."""

from __future__ import annotations

from hashlib import sha256

import torch

from client.destroyed import Destroyed
from client.encoder import Encoder
from fednot.codecs import Codec, codec_of
from fednot.manifest import Manifest, TensorKind, TensorSpec
from fednot.tensors import as_bytes, views
from fednot.wire import checksum

MANIFEST = Manifest((TensorSpec("w", "F32", (1024,), TensorKind.PARAMETER, "Linear", 0),))
TOP = codec_of("topk", 0.001)
"""Two of 1,024 values: ceil(1.024)."""


def update(*largest: float) -> torch.Tensor:
    """An update of 1,024 values: those given, then zeros."""
    values = torch.zeros(1024)
    values[: len(largest)] = torch.tensor(largest)
    return values.view(torch.uint8)


def sent(encoder: Encoder, codec: Codec, given: torch.Tensor, generation: int = 0) -> list[float]:
    """The first values of what the server would decode."""
    encoded = encoder.encode(codec, given, generation)
    assert encoded.checksum == checksum(encoded.payload)
    payload = torch.frombuffer(bytearray(encoded.payload), dtype=torch.uint8)
    found = views(codec.decode(payload, MANIFEST), MANIFEST)["w"]
    return found[:4].tolist()


def test_without_an_encoding_the_update_is_sent_as_it_is() -> None:
    given = update(1, 2, 3)
    encoded = Encoder(MANIFEST).encode(codec_of("none"), given, 0)
    assert bytes(encoded.payload) == bytes(as_bytes(given))


def test_what_was_left_out_comes_with_the_next_update() -> None:
    """(4, 3, 2, 1): 4 and 3 go, 2 and 1 stay; with an update of zeros they go next."""
    encoder = Encoder(MANIFEST)
    assert sent(encoder, TOP, update(4, 3, 2, 1)) == [4, 3, 0, 0]
    encoder.counted()
    assert sent(encoder, TOP, update()) == [0, 0, 2, 1]


def test_what_an_uncounted_update_left_out_is_dropped_with_it() -> None:
    encoder = Encoder(MANIFEST)
    sent(encoder, TOP, update(4, 3, 2, 1))
    encoder.dropped()
    assert sent(encoder, TOP, update()) == [0, 0, 0, 0]


def test_a_client_that_is_told_to_forget_keeps_nothing() -> None:
    encoder = Encoder(MANIFEST)
    sent(encoder, TOP, update(4, 3, 2, 1))
    encoder.counted()
    encoder.forget()
    assert sent(encoder, TOP, update()) == [0, 0, 0, 0]


def test_an_update_in_flight_brings_nothing_back_after_forgetting() -> None:
    encoder = Encoder(MANIFEST)
    sent(encoder, TOP, update(4, 3, 2, 1))
    encoder.forget()
    encoder.counted()
    assert sent(encoder, TOP, update()) == [0, 0, 0, 0]


def test_nothing_crosses_an_unlearning() -> None:
    """A residual of the generation before may hold what was forgotten."""
    encoder = Encoder(MANIFEST)
    sent(encoder, TOP, update(4, 3, 2, 1))
    encoder.counted()
    assert sent(encoder, TOP, update(), generation=1) == [0, 0, 0, 0]


def test_nothing_crosses_a_change_of_encoding() -> None:
    encoder = Encoder(MANIFEST)
    sent(encoder, TOP, update(4, 3, 2, 1))
    encoder.counted()
    sent(encoder, codec_of("int8"), update())
    assert sent(encoder, TOP, update()) == [0, 0, 0, 0]


def test_the_same_work_again_is_encoded_as_it_was_the_first_time() -> None:
    """The server lost the sum in which it counted: (2, 1) must not come twice."""
    encoder = Encoder(MANIFEST)
    for _ in range(2):
        encoded = encoder.encode(TOP, update(4, 3, 2, 1), 0, "w1")
        assert bytes(encoded.payload) == bytes(
            Encoder(MANIFEST).encode(TOP, update(4, 3, 2, 1), 0).payload
        )
        encoder.counted()
    assert sent(encoder, TOP, update()) == [0, 0, 2, 1]


def test_other_work_takes_nothing_back() -> None:
    """(4, 3, 4, 2) is the second update with what the first left; its 4s go, 3 and 2 stay."""
    encoder = Encoder(MANIFEST)
    for work_id in ("w1", "w2"):
        encoder.encode(TOP, update(4, 3, 2, 1), 0, work_id)
        encoder.counted()
    assert sent(encoder, TOP, update()) == [0, 3, 0, 2]


def test_what_is_destroyed_is_told_by_the_digest_it_had() -> None:
    """Of (4, 3, 2, 1) two go and (0, 0, 2, 1, 0, ...) stays; the residual before is all zeros."""
    encoder = Encoder(MANIFEST)
    encoder.encode(TOP, update(4, 3, 2, 1), 0)
    encoder.counted()
    assert encoder.destroy_before(0) == []
    gone = encoder.destroy_before(1)
    held = [sha256(bytes(as_bytes(update(*values)))).hexdigest() for values in ((0, 0, 2, 1), ())]
    assert gone == [Destroyed("residual", digest, 4096) for digest in held]
    assert encoder.destroy_before(1) == []
    assert sent(encoder, TOP, update()) == [0, 0, 0, 0]


def test_what_a_new_generation_destroyed_is_told_with_the_next_order() -> None:
    """The residual [0, 0, 2, 1] went when the first update of generation 1 was encoded."""
    encoder = Encoder(MANIFEST)
    encoder.encode(TOP, update(4, 3, 2, 1), 0)
    encoder.counted()
    encoder.encode(TOP, update(1, 1, 1, 1), 1)
    held = [sha256(bytes(as_bytes(update(*values)))).hexdigest() for values in ((0, 0, 2, 1), ())]
    assert encoder.destroy_before(1) == [Destroyed("residual", digest, 4096) for digest in held]
    assert encoder.destroy_before(1) == []
