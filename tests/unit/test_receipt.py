"""What a receipt promises: one payload, one signature over it, and no byte that may change."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import OKPKey
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from pydantic import ValidationError as PayloadError
from support.receipts import golden_key, sample_receipt

from fednot.receipt import Receipt, ReceiptError, SigningKey, schema, verified
from fednot.receipt import payload as payload_module

GOLDEN = Path(__file__).parent / "golden"
JWS = (GOLDEN / "receipt.jws").read_text()
PEM = (GOLDEN / "receipt-key.pub.pem").read_text()
SCHEMA = Path(payload_module.__file__).with_name("receipt.schema.json")


def test_the_golden_receipt_verifies_and_says_what_it_said() -> None:
    found = verified(JWS, PEM)
    assert found == sample_receipt()
    assert found == Receipt.model_validate_json((GOLDEN / "receipt.json").read_text())
    assert golden_key().sign(found) == JWS


def test_a_field_that_came_later_is_there_only_if_it_says_something() -> None:
    """So a reader that does not know it still reads the receipts that have no use for it."""
    kept = payload_module.KeptUpdates(count=1, num_bytes=8, sha256="a" * 64)
    for receipt, is_there in ((sample_receipt(), False), (sample_receipt(kept_updates=kept), True)):
        text = golden_key().sign(receipt)
        told = json.loads(urlsafe_b64decode(text.split(".")[1] + "=="))
        assert ("kept_updates" in told) is is_there
        assert "steps" not in told["attempts"][0]
        assert verified(text, PEM) == receipt


@pytest.mark.parametrize("mask", [0x01, 0x20])
def test_no_byte_can_be_changed(mask: int) -> None:
    """At every place, also in the last letter, of whose six bits four mean nothing."""
    data = JWS.encode()
    accepted = []
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]
        try:
            verified(changed.decode("latin-1"), PEM)
        except ReceiptError:
            continue
        accepted.append(place)
    assert accepted == []


def test_every_other_last_letter_is_refused() -> None:
    for letter in set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") - {
        JWS[-1]
    }:
        with pytest.raises(ReceiptError):
            verified(JWS[:-1] + letter, PEM)


@pytest.mark.parametrize(
    "text", ["", "a.b", JWS + "A", " " + JWS, JWS + "\n\n", JWS + ".", "é" * 9]
)
def test_what_is_no_receipt_is_refused(text: str) -> None:
    with pytest.raises(ReceiptError, match=r"no receipt|verify"):
        verified(text, PEM)
    assert verified(JWS + "\n", PEM)


def test_a_key_of_an_unknown_kind_is_no_good() -> None:
    ed25519, unknown = "MCowBQYDK2Vw", "MCowBQYDK1Vw"
    assert ed25519 in PEM
    with pytest.raises(ReceiptError, match="no public Ed25519 key"):
        verified(JWS, PEM.replace(ed25519, unknown))


def test_the_key_is_found_among_several_and_another_is_no_good() -> None:
    other = golden_key("other").pem
    assert verified(JWS, other + PEM) == verified(JWS, PEM)
    with pytest.raises(ReceiptError, match="not among those that were given"):
        verified(JWS, other)
    with pytest.raises(ReceiptError, match="no public key was given"):
        verified(JWS, "nothing")
    with pytest.raises(ReceiptError, match="no public Ed25519 key"):
        verified(JWS, PEM.replace("M", "N"))


def signed(header: dict[str, Any], payload: bytes) -> str:
    key = OKPKey.import_key(golden_key().private_pem())
    return jws.serialize_compact(header, payload, key, algorithms=["EdDSA"])


def test_a_signature_of_something_else_by_the_same_key_is_refused() -> None:
    header = {"alg": "EdDSA", "typ": "fednot-receipt+jws", "kid": golden_key().id}
    whole = json.loads(sample_receipt().model_dump_json())
    assert verified(signed(header, json.dumps(whole).encode()), PEM)
    with pytest.raises(ReceiptError, match="does not say EdDSA and"):
        verified(signed(header | {"typ": "JWT"}, json.dumps(whole).encode()), PEM)
    with pytest.raises(ReceiptError, match="cannot read it: surprise: Extra inputs"):
        verified(signed(header, json.dumps(whole | {"surprise": 1}).encode()), PEM)
    with pytest.raises(ReceiptError, match="cannot read it"):
        verified(signed(header, b"not json"), PEM)
    other = whole | {"key_id": golden_key("other").id}
    with pytest.raises(ReceiptError, match="names another key"):
        verified(signed(header, json.dumps(other).encode()), PEM)


def test_a_key_signs_only_what_names_it_and_does_not_show_itself() -> None:
    key = SigningKey.generate()
    with pytest.raises(ReceiptError, match="is to be signed with"):
        key.sign(sample_receipt())
    assert repr(key) == f"SigningKey({key.id})"
    again = SigningKey.from_private_pem(key.private_pem())
    assert (again.id, again.pem) == (key.id, key.pem)
    for pem in (b"", key.pem.encode()):
        with pytest.raises(ReceiptError, match="no private"):
            SigningKey.from_private_pem(pem)


def test_a_receipt_cannot_be_changed_and_refuses_what_it_does_not_know() -> None:
    receipt = sample_receipt()
    with pytest.raises(PayloadError, match="frozen"):
        receipt.job_id = "job-other"  # type: ignore[misc]
    for wrong in ({"more": 1}, {"format": 2}, {"participants": -1}, {"statement": "proof"}):
        with pytest.raises(PayloadError):
            sample_receipt(**wrong)


def test_the_schema_is_fresh() -> None:
    assert json.loads(SCHEMA.read_text()) == schema(), "run python -m fednot.receipt"


def test_the_schema_takes_the_payload_and_refuses_others() -> None:
    validator = Draft202012Validator(json.loads(SCHEMA.read_text()), format_checker=FormatChecker())
    Draft202012Validator.check_schema(validator.schema)
    whole = json.loads((GOLDEN / "receipt.json").read_text())
    validator.validate(whole)
    without = {name: value for name, value in whole.items() if name != "base"}
    name = whole["scopes"][0] | {"client": "clinic-a"}
    for wrong in (without, whole | {"surprise": 1}, whole | {"scopes": [name]}):
        with pytest.raises(ValidationError):
            validator.validate(wrong)


def test_importing_it_needs_no_network_library_and_no_torch() -> None:
    program = (
        "import sys, fednot.receipt.signing, fednot.receipt.page\n"
        "print(sorted({'grpc', 'torch', 'sqlalchemy'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.stdout.strip() == "[]", told.stderr
