"""A masked round in one process: what the server gets is noise, and what it unmasks is the sum."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.identities import Identities
from torch import nn

from fednot.errors import FednotError, Reason
from fednot.identity.folder import read_credentials
from fednot.identity.subject import Role
from fednot.manifest import Manifest
from fednot.secure_aggregation.masked_sum import Unmasking, add_payload, checked, unmask
from fednot.secure_aggregation.masks import add_stream
from fednot.secure_aggregation.participant import Advertised, Participant, Revealed
from fednot.secure_aggregation.ring import Masked, mean_of, quantised
from fednot.secure_aggregation.signing import CertificateSigner
from fednot.secure_aggregation.terms import Terms, keys_text, threshold_of
from fednot.tensors import empty, flatten_module, views

NAMES = ("a", "b", "c", "d", "e")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 5)
        self.norm = nn.BatchNorm1d(5)
        self.last = nn.Linear(5, 3, bias=False)


MANIFEST = Manifest.of(Net())


class NameSigner:
    """Signs by name; what another signed is not good."""

    def __init__(self, name: str) -> None:
        self.chain = name.encode()

    def sign(self, message: bytes) -> bytes:
        return self.chain + b":" + message

    def check(self, client: str, chain: bytes, message: bytes, signature: bytes) -> None:
        if chain != client.encode() or signature != client.encode() + b":" + message:
            raise FednotError(Reason.MASKING_FAILED, "not signed")


def terms(names: Sequence[str] = NAMES, threshold: int = 4, **changed: object) -> Terms:
    found = Terms(b"attempt-attempt!", 3, 7, 1, threshold, tuple(names), 16.0, 100)
    return replace(found, **changed)  # type: ignore[arg-type]


def update(seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    flat = flatten_module(Net(), MANIFEST)
    for view in views(flat, MANIFEST).values():
        if view.is_floating_point():
            view.uniform_(-1, 1)
        else:
            view.fill_(seed)
    return flat


class Attempt:
    """The server's side, played: who is there at each step is given."""

    def __init__(self, found: Terms | None = None) -> None:
        self.terms = found or terms()
        self.clients = {
            name: Participant(name, self.terms, NameSigner(name)) for name in self.terms.cohort
        }
        self.total = torch.zeros(Masked().size(MANIFEST), dtype=torch.uint8)
        self.payloads: dict[str, torch.Tensor] = {}

    def rosters(self) -> list[Advertised]:
        return [each.advertised() for each in self.clients.values()]

    def share(self, sharers: Sequence[str]) -> None:
        given = {name: self.clients[name].shares_for(self.rosters()) for name in sharers}
        self.received = {
            name: {other: given[other][name] for other in sharers if other != name}
            for name in sharers
        }
        self.sharers = frozenset(sharers)

    def upload(self, survivors: Sequence[str], examples: Mapping[str, int]) -> None:
        for name in self.sharers:
            payload, clipped = quantised(
                update(ord(name)), MANIFEST, examples[name], self.terms.scale
            )
            assert clipped == 0
            masked = self.clients[name].masked(payload, self.received[name])
            if name in survivors:
                self.payloads[name] = masked
                add_payload(self.total, masked)
        self.survivors = frozenset(survivors)

    def reveal(self, there: Sequence[str]) -> Unmasking:
        signatures = {name: self.clients[name].signed(self.survivors) for name in there}
        revealed = {
            name: checked(self.clients[name].revealed(signatures), self.sharers, self.survivors)
            for name in there
        }
        roster = {each.client: each for each in self.rosters()}
        return Unmasking(self.terms, roster, self.sharers, self.survivors, revealed)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_the_mean_comes_out_whoever_drops_out(data: st.DataObject) -> None:
    size = data.draw(st.integers(3, 6))
    names = tuple("abcdef"[:size])
    threshold = data.draw(st.integers(threshold_of(size), size))
    fewest = max(threshold, 3)
    sharers = data.draw(st.permutations(names))[: data.draw(st.integers(fewest, size))]
    survivors = sharers[: data.draw(st.integers(fewest, len(sharers)))]
    there = survivors[: data.draw(st.integers(threshold, len(survivors)))]
    examples = {name: data.draw(st.integers(1, 100)) for name in names}
    attempt = Attempt(terms(names, threshold))
    attempt.share(sharers)
    attempt.upload(survivors, examples)
    unmask(attempt.total, attempt.reveal(there))
    whole = sum(examples[name] for name in survivors)
    mean = mean_of(attempt.total, MANIFEST, whole, attempt.terms.scale)
    expected = {
        name: sum(
            views(update(ord(client)), MANIFEST)[name].double() * examples[client]
            for client in survivors
        )
        / whole
        for name in views(empty(MANIFEST), MANIFEST)
    }
    # Each client rounds by half a step at most, of 16 / (2^31 / n) in its weighted update.
    tolerance = 16 * size / 2**31 * len(survivors) * 100 / whole + 1e-7
    for name, found in views(mean, MANIFEST).items():
        bound = tolerance if found.is_floating_point() else 1.0
        assert float((found.double() - expected[name]).abs().max()) <= bound, name


def test_a_single_masked_update_is_noise() -> None:
    """Bytes of a uniform payload take each value equally often: chi-squared of 255 degrees."""
    attempt = Attempt()
    attempt.share(NAMES)
    attempt.upload(NAMES, dict.fromkeys(NAMES, 10))
    for name, payload in attempt.payloads.items():
        plain, _ = quantised(update(ord(name)), MANIFEST, 10, attempt.terms.scale)
        noise = (payload.view(torch.int32) - plain.view(torch.int32)).numpy().view(np.uint32)
        assert len(set(noise.tolist())) == len(noise)
        counts = np.bincount((payload.numpy()), minlength=256)
        chi = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
        assert chi < 400


def test_masks_are_new_in_each_attempt() -> None:
    first, second = Attempt(), Attempt()
    for attempt in (first, second):
        attempt.share(NAMES)
        attempt.upload(NAMES, dict.fromkeys(NAMES, 10))
    assert not torch.equal(first.payloads["a"], second.payloads["a"])
    assert first.rosters()[0].mask_key != second.rosters()[0].mask_key


def test_fewer_than_the_threshold_take_nothing_off() -> None:
    attempt = Attempt()
    attempt.share(NAMES)
    attempt.upload(NAMES, dict.fromkeys(NAMES, 10))
    found = attempt.reveal(NAMES)
    few = dict(itertools.islice(found.revealed.items(), 3))
    with pytest.raises(FednotError, match="fewer than the threshold") as caught:
        unmask(attempt.total, replace(found, revealed=few))
    assert caught.value.reason is Reason.MASKING_FAILED


def test_a_share_of_another_key_is_found_out() -> None:
    attempt = Attempt()
    attempt.share(NAMES)
    attempt.upload(NAMES[:4], dict.fromkeys(NAMES, 10))
    found = attempt.reveal(NAMES[:4])
    rows = {name: dict(row) for name, row in found.revealed.items()}
    rows["a"]["e"] = Revealed("e", mask_key=bytes(33))
    with pytest.raises(FednotError, match="mask key"):
        unmask(attempt.total, replace(found, revealed=rows))


def test_a_wrong_share_of_a_seed_is_found_out_by_the_zeros() -> None:
    """Of 3 clients all 3 must reveal, so no share is left over that could tell a wrong one."""
    names = NAMES[:3]
    attempt = Attempt(terms(names, 3))
    attempt.share(names)
    attempt.upload(names, dict.fromkeys(names, 10))
    found = attempt.reveal(names)
    rows = {name: dict(row) for name, row in found.revealed.items()}
    rows["a"]["b"] = Revealed("b", seed=(5).to_bytes(33, "little"))
    with pytest.raises(FednotError) as caught:
        unmask(attempt.total, replace(found, revealed=rows))
    assert caught.value.reason is Reason.MASKING_FAILED


def test_a_sum_with_a_foreign_payload_in_it_is_said_to_be_noise() -> None:
    attempt = Attempt()
    attempt.share(NAMES)
    attempt.upload(NAMES, dict.fromkeys(NAMES, 10))
    add_payload(attempt.total, torch.full_like(attempt.total, 7))
    with pytest.raises(FednotError, match="noise"):
        unmask(attempt.total, attempt.reveal(NAMES))


def test_keys_of_small_order_are_found_before_anything_is_masked() -> None:
    """With zeros every private key agrees on zeros, and X25519 raises."""
    attempt = Attempt()
    zeros = bytes(32)
    e = attempt.clients["e"].advertised()
    message = keys_text(attempt.terms, "e", e.cipher_key, zeros)
    weak = replace(e, mask_key=zeros, signature=NameSigner("e").sign(message))
    with pytest.raises(FednotError, match="key of e is none"):
        attempt.clients["a"].shares_for([*attempt.rosters()[:4], weak])
    roster = {each.client: each for each in (*attempt.rosters()[:4], weak)}
    attempt.share(NAMES)
    attempt.upload(NAMES[1:], dict.fromkeys(NAMES, 10))
    found = replace(attempt.reveal(NAMES[1:]), roster=roster)
    with pytest.raises(FednotError, match="mask key of e is none"):
        unmask(attempt.total, found)


def test_nothing_is_told_once_an_attempt_was_closed() -> None:
    attempt = Attempt()
    attempt.share(NAMES)
    attempt.upload(NAMES, dict.fromkeys(NAMES, 10))
    client = attempt.clients["a"]
    signatures = {name: attempt.clients[name].signed(NAMES) for name in NAMES}
    client.close()
    for call in (
        lambda: client.revealed(signatures),
        lambda: client.signed(NAMES),
        lambda: client.shares_for(attempt.rosters()),
    ):
        with pytest.raises(FednotError) as caught:
            call()
        assert caught.value.reason is Reason.MASKING_FAILED


class TestAServerThatCheats:
    def ready(self) -> Attempt:
        attempt = Attempt()
        attempt.share(NAMES)
        attempt.upload(NAMES[:4], dict.fromkeys(NAMES, 10))
        return attempt

    def refused(self, call: object, match: str) -> None:
        with pytest.raises(FednotError, match=match) as caught:
            call()  # type: ignore[operator]
        assert caught.value.reason is Reason.MASKING_FAILED

    def test_it_cannot_put_its_own_keys_in_anothers_place(self) -> None:
        attempt = Attempt()
        mine = Participant("b", attempt.terms, NameSigner("b")).advertised()
        forged = replace(attempt.clients["b"].advertised(), mask_key=mine.mask_key)
        roster = [forged if each.client == "b" else each for each in attempt.rosters()]
        self.refused(lambda: attempt.clients["a"].shares_for(roster), "not signed")

    def test_it_cannot_change_the_clients_own_keys(self) -> None:
        attempt = Attempt()
        other = Participant("a", attempt.terms, NameSigner("a")).advertised()
        roster = [other, *attempt.rosters()[1:]]
        self.refused(lambda: attempt.clients["a"].shares_for(roster), "other keys of this client")

    def test_it_cannot_replay_keys_of_another_attempt(self) -> None:
        attempt, older = Attempt(), Attempt(terms(attempt=b"older attempt!!!"))
        roster = [*attempt.rosters()[:4], older.rosters()[4]]
        self.refused(lambda: attempt.clients["a"].shares_for(roster), "not signed")

    def test_it_cannot_leave_a_client_alone(self) -> None:
        attempt = Attempt()
        self.refused(lambda: attempt.clients["a"].shares_for(attempt.rosters()[:2]), "too few")

    def test_it_cannot_name_a_client_twice_or_a_stranger(self) -> None:
        attempt = Attempt()
        twice = [*attempt.rosters(), attempt.rosters()[1]]
        self.refused(lambda: attempt.clients["a"].shares_for(twice), "twice")
        stranger = Attempt(terms((*NAMES, "f"), 5)).rosters()[5]
        roster = [*attempt.rosters(), stranger]
        self.refused(lambda: attempt.clients["a"].shares_for(roster), "not in the cohort")

    def test_it_cannot_show_another_roster_later(self) -> None:
        attempt = Attempt()
        attempt.share(NAMES)
        self.refused(
            lambda: attempt.clients["a"].shares_for(attempt.rosters()[:4]), "another roster"
        )

    def test_it_cannot_have_two_updates_masked_alike(self) -> None:
        attempt = self.ready()
        payload, _ = quantised(update(1), MANIFEST, 1, attempt.terms.scale)
        again = attempt.received["a"]
        self.refused(lambda: attempt.clients["a"].masked(payload, again), "masks one update")

    def test_it_cannot_change_a_share(self) -> None:
        attempt = Attempt()
        attempt.share(NAMES)
        received = dict(attempt.received["a"])
        sealed = bytearray(received["b"])
        sealed[20] ^= 1
        received["b"] = bytes(sealed)
        payload, _ = quantised(update(1), MANIFEST, 1, attempt.terms.scale)
        self.refused(lambda: attempt.clients["a"].masked(payload, received), "did not encrypt")

    def test_it_cannot_get_both_secrets_by_two_lists(self) -> None:
        attempt = self.ready()
        client = attempt.clients["a"]
        client.signed(attempt.survivors)
        self.refused(lambda: client.signed({"a", "b", "c", "e"}), "another list")

    def test_nothing_is_revealed_before_enough_signed_the_same_list(self) -> None:
        attempt = self.ready()
        clients = attempt.clients
        self.refused(lambda: clients["a"].revealed({}), "no list")
        own = {name: clients[name].signed(attempt.survivors) for name in "abc"}
        self.refused(lambda: clients["a"].revealed(own), "are needed")
        other = clients["d"]._signer.sign(b"another list")
        self.refused(lambda: clients["a"].revealed({**own, "d": other}), "not signed")

    @pytest.mark.parametrize(
        "survivors", ["abc", "bcde", "abcf", "abbc"], ids=["few", "without it", "stranger", "twice"]
    )
    def test_a_list_that_lets_too_much_be_read_is_not_signed(self, survivors: str) -> None:
        attempt = self.ready()
        with pytest.raises(FednotError) as caught:
            attempt.clients["a"].signed(survivors)
        assert caught.value.reason is Reason.MASKING_FAILED


@pytest.mark.parametrize(
    ("cohort", "threshold"), [("ab", 2), ("abcdef", 4), ("abc", 4), ("aab", 2)]
)
def test_terms_under_which_one_could_be_read_are_refused(cohort: str, threshold: int) -> None:
    with pytest.raises(ValueError, match=r"clients|threshold|twice"):
        terms(tuple(cohort), threshold)


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("authority"))


class TestCertificates:
    def test_a_clients_signature_is_checked_by_its_certificate(
        self, identities: Identities
    ) -> None:
        a, b = (signer(identities, Role.CLIENT, name) for name in ("a", "b"))
        signature = a.sign(b"text")
        b.check("a", a.chain, b"text", signature)
        for client, chain, message in (
            ("a", a.chain, b"other"),
            ("a", b.chain, b"text"),
            ("b", a.chain, b"text"),
            ("a", b"no certificate", b"text"),
            ("a", a.chain * 100, b"text"),
        ):
            with pytest.raises(FednotError) as caught:
                b.check(client, chain, message, signature)
            assert caught.value.reason is Reason.MASKING_FAILED

    def test_another_authority_or_role_is_not_believed(
        self, identities: Identities, tmp_path: Path
    ) -> None:
        b = signer(identities, Role.CLIENT, "b")
        stranger = signer(Identities(tmp_path / "other"), Role.CLIENT, "a")
        with pytest.raises(FednotError, match="not trusted"):
            b.check("a", stranger.chain, b"text", stranger.sign(b"text"))
        officer = signer(identities, Role.OFFICER, "a")
        with pytest.raises(FednotError, match="that of"):
            b.check("a", officer.chain, b"text", officer.sign(b"text"))

    def test_a_newer_authority_is_believed_once_the_trusted_one_vouched_for_it(
        self, tmp_path: Path
    ) -> None:
        identities = Identities(tmp_path)
        older = signer(identities, Role.CLIENT, "a")
        identities.authority.rotate()
        newer = signer(identities, Role.CLIENT, "b")
        older.check("b", newer.chain, b"text", newer.sign(b"text"))
        newer.check("a", older.chain, b"text", older.sign(b"text"))


def signer(identities: Identities, role: Role, name: str) -> CertificateSigner:
    return CertificateSigner(read_credentials(identities.of(role, name)))


@pytest.mark.parametrize("size", [4, 1 << 20, (1 << 20) + 4])
def test_a_stream_that_is_taken_off_leaves_nothing(size: int) -> None:
    payload = torch.randint(0, 256, (size,), dtype=torch.uint8)
    before = payload.clone()
    add_stream(payload, b"k" * 32)
    assert not torch.equal(payload, before)
    add_stream(payload, b"k" * 32, -1)
    assert torch.equal(payload, before)


def test_what_does_not_fit_is_clipped_and_counted() -> None:
    flat = update(1)
    views(flat, MANIFEST)["first.weight"][0, :3] = torch.tensor([17.0, -99.0, 16.0])
    scale = terms().scale
    payload, clipped = quantised(flat, MANIFEST, 100, scale)
    assert clipped == 2
    found = views(mean_of(payload, MANIFEST, 100, scale), MANIFEST)["first.weight"][0, :3]
    assert found.tolist() == pytest.approx([16.0, -16.0, 16.0], abs=1e-6)


@pytest.mark.parametrize("examples", [0, 101])
def test_a_weight_beyond_the_scale_is_refused(examples: int) -> None:
    with pytest.raises(ValueError, match="examples"):
        quantised(update(1), MANIFEST, examples, terms().scale)


def test_an_update_that_is_not_finite_is_refused() -> None:
    flat = update(1)
    views(flat, MANIFEST)["last.weight"][0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        quantised(flat, MANIFEST, 1, terms().scale)


def test_the_largest_updates_do_not_leave_the_ring() -> None:
    scale = terms().scale
    flat = update(1)
    for view in views(flat, MANIFEST).values():
        view.fill_(16)
    total = torch.zeros(Masked().size(MANIFEST), dtype=torch.uint8)
    for _ in NAMES:
        add_payload(total, quantised(flat, MANIFEST, 100, scale)[0])
    mean = views(mean_of(total, MANIFEST, 500, scale), MANIFEST)
    assert float(mean["first.weight"].min()) == pytest.approx(16.0, abs=1e-6)


def test_a_masked_update_alone_is_not_read() -> None:
    with pytest.raises(FednotError, match="cannot be read"):
        list(Masked().pieces(torch.zeros(8, dtype=torch.uint8), MANIFEST))
