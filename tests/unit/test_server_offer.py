"""What a session is offered: the first of the client's encodings that the server allows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fednot.codecs import NAMES
from fednot.errors import FednotError, Reason
from fednot.v1 import federation_pb2, model_pb2
from fednot.wire import codec_name, codec_value
from server.services.offer import SessionOffer

BF16 = model_pb2.UPDATE_CODEC_BF16
INT8 = model_pb2.UPDATE_CODEC_INT8
TOP_K = model_pb2.UPDATE_CODEC_TOP_K
MASKED = model_pb2.UPDATE_CODEC_MASKED
NEWER = 99


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ([], "none"),
        ([BF16], "bf16"),
        ([INT8], "none"),
        ([INT8, BF16], "bf16"),
        ([TOP_K, BF16], "topk"),
        ([NEWER, BF16], "bf16"),
        ([model_pb2.UPDATE_CODEC_UNSPECIFIED, BF16], "none"),
        ([model_pb2.UPDATE_CODEC_NONE, BF16], "none"),
    ],
)
def test_the_first_encoding_that_is_allowed_is_taken(
    wanted: Sequence[model_pb2.UpdateCodec.ValueType], given: str
) -> None:
    offer = SessionOffer(5.0, codecs=frozenset({"none", "bf16", "topk"}))
    assert offer.codec_for(wanted).name == given


def test_without_codecs_updates_are_plain() -> None:
    assert SessionOffer(5.0).codec_for([BF16, INT8, TOP_K]).name == "none"


def test_masked_updates_are_taken_alone_and_only_where_they_are_asked_for() -> None:
    masking = SessionOffer(5.0, codecs=frozenset(NAMES), masked=True)
    assert masking.codec_for([TOP_K, MASKED]).name == "masked"
    with pytest.raises(FednotError, match="the client cannot mask its updates") as caught:
        masking.codec_for([TOP_K, BF16])
    assert caught.value.reason is Reason.MASKING_REQUIRED
    plain = SessionOffer(5.0, codecs=frozenset(NAMES))
    assert plain.codec_for([MASKED, BF16]).name == "bf16"


def test_the_answer_names_codec_fraction_heartbeat_and_port() -> None:
    offer = SessionOffer(2.5, codecs=frozenset(NAMES), top_k_fraction=0.25, data_port=lambda: 50053)
    response = federation_pb2.JoinResponse()
    offer.write(response, offer.codec_for([TOP_K]))
    assert (response.codec, response.top_k_fraction) == (TOP_K, 0.25)
    assert (response.heartbeat_interval.ToMilliseconds(), response.data_port) == (2500, 50053)


def test_every_codec_has_its_value_in_the_protocol() -> None:
    values = set(model_pb2.UpdateCodec.values()) - {model_pb2.UPDATE_CODEC_UNSPECIFIED}
    names = [*NAMES, "masked"]
    assert {codec_value(name) for name in names} == values
    assert [codec_name(codec_value(name)) for name in names] == names
    assert codec_name(NEWER) == ""  # type: ignore[arg-type]
