"""Identity folders: written whole, read with every fault named, and watched while replaced."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from cryptography import x509

from fednot.errors import FednotError, Reason
from fednot.identity import certificates, folder
from fednot.identity.folder import (
    CERTIFICATE,
    KEY,
    REQUEST,
    TRUST,
    WatchedFolder,
    read_credentials,
    read_trust,
    refuse_another,
    write_credentials,
    write_private,
    write_request,
)
from fednot.identity.subject import Role, Subject

ROOT_KEY = certificates.new_key()
ROOT = certificates.self_signed_authority("fednot authority", ROOT_KEY, 30, "fednot")
CLIENT = Subject(Role.CLIENT, "c1")
OTHER = Subject(Role.CLIENT, "c2")


def identity(place: Path, subject: Subject = CLIENT) -> Path:
    key = certificates.new_key()
    leaf = certificates.leaf(subject, key.public_key(), ROOT, ROOT_KEY, days=1)
    write_credentials(
        place,
        chain=certificates.pem_of([leaf]),
        trust=certificates.pem_of([ROOT]),
        key=certificates.key_pem(key),
    )
    return place


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def fault(place: Path) -> str:
    with pytest.raises(FednotError) as caught:
        read_credentials(place)
    assert caught.value.reason is Reason.INVALID_IDENTITY
    return caught.value.message


def test_what_is_written_is_read(tmp_path: Path) -> None:
    place = identity(tmp_path / "deep" / "c1")
    found = read_credentials(place)
    assert found.subject == CLIENT
    assert found.trust == certificates.pem_of([ROOT])
    assert found.chain == certificates.pem_of([found.certificate])
    assert certificates.issued_by(found.certificate, ROOT)


def test_only_the_owner_reads_the_key(tmp_path: Path) -> None:
    place = identity(tmp_path / "c1")
    assert mode(place) == 0o700
    assert [mode(place / names[0]) for names in (KEY, CERTIFICATE, TRUST)] == [0o600, 0o644, 0o644]
    assert sorted(path.name for path in place.iterdir()) == ["ca.pem", "cert.pem", "key.pem"]


def test_the_key_is_not_shown(tmp_path: Path) -> None:
    assert "PRIVATE" not in repr(read_credentials(identity(tmp_path / "c1")))


def test_the_names_of_kubernetes_are_read_and_kept(tmp_path: Path) -> None:
    place = identity(tmp_path / "c1")
    for ours, theirs in (CERTIFICATE, KEY, TRUST):
        (place / ours).rename(place / theirs)
    before = read_credentials(place)
    identity(place)
    assert sorted(path.name for path in place.iterdir()) == ["ca.crt", "tls.crt", "tls.key"]
    assert read_credentials(place) != before


def test_each_fault_names_its_file(tmp_path: Path) -> None:
    good = identity(tmp_path / "good")
    assert "there is no cert.pem in" in fault(tmp_path / "nowhere")
    assert "which is not a folder" in fault(tmp_path / "nowhere")
    for names in (CERTIFICATE, KEY, TRUST):
        place = Path(shutil.copytree(good, tmp_path / names[0]))
        (place / names[0]).write_bytes(b"nonsense")
        assert f"{place / names[0]} holds no" in fault(place)
        (place / names[0]).unlink()
        assert fault(place) == f"there is no {names[0]} in {place}"
        (place / names[0]).mkdir()
        assert f"{place / names[0]} cannot be read: Is a directory" in fault(place)


def test_swapped_and_empty_files_are_called_that(tmp_path: Path) -> None:
    place = identity(tmp_path / "c1")
    certificate, key = place / "cert.pem", place / "key.pem"
    whole = key.read_bytes()
    key.write_bytes(certificate.read_bytes())
    assert f"{key} holds a certificate, and has to hold a private key; are the" in fault(place)
    certificate.write_bytes(whole)
    assert f"{certificate} holds a private key, and has to hold a certificate" in fault(place)
    for path in (certificate, key, place / "ca.pem"):
        good = identity(tmp_path / path.stem)
        (good / path.name).write_bytes(b" \n")
        assert f"{good / path.name} is empty; it has to hold a" in fault(good)


def test_what_is_cut_off_is_told_without_the_librarys_address(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem", "ca.pem"):
        place = identity(tmp_path / name.removesuffix(".pem"))
        (place / name).write_bytes((place / name).read_bytes()[:-40])
        assert f"{place / name} holds no" in fault(place)
        assert "http" not in fault(place)


def test_a_key_of_another_certificate_is_seen(tmp_path: Path) -> None:
    place = identity(tmp_path / "c1")
    shutil.copy(identity(tmp_path / "c2") / "key.pem", place)
    assert fault(place).startswith(f"{place / 'key.pem'} is not the key of {place / 'cert.pem'}")


def test_a_certificate_of_something_else_is_seen(tmp_path: Path) -> None:
    place = tmp_path / "root"
    pem = certificates.pem_of([ROOT])
    write_credentials(place, chain=pem, trust=pem, key=certificates.key_pem(ROOT_KEY))
    assert f"{place / 'cert.pem'} is no certificate of fednot" in fault(place)


def test_trust_is_read(tmp_path: Path) -> None:
    place = identity(tmp_path / "c1")
    assert read_trust(place / "ca.pem") == (ROOT,)
    with pytest.raises(FednotError, match=r"key.pem holds a private key"):
        read_trust(place / "key.pem")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, b"old")
    with pytest.raises(TypeError):
        write_private(path, "no bytes")  # type: ignore[arg-type]
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]
    assert path.read_bytes() == b"old"
    assert mode(path) == 0o600


def test_a_request_leaves_its_key_in_the_folder(tmp_path: Path) -> None:
    place = tmp_path / "c1"
    digest = write_request(place, CLIENT)
    subject, key = certificates.read_request((place / REQUEST).read_bytes())
    assert subject == CLIENT
    assert certificates.key_digest(key) == digest
    assert (mode(place), mode(place / "key.pem")) == (0o700, 0o600)
    private = certificates.read_key((place / "key.pem").read_bytes())
    assert certificates.same_key(private.public_key(), key)


@pytest.mark.parametrize("name", KEY)
def test_a_request_replaces_no_key(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(FednotError, match=f"{name} exists and is not replaced"):
        write_request(tmp_path, CLIENT)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"precious"


def test_a_folder_where_a_certificate_does_not_fit_is_refused(tmp_path: Path) -> None:
    place = identity(tmp_path / "c1")
    digest = certificates.key_digest(read_credentials(place).certificate.public_key())
    refuse_another(tmp_path / "new", CLIENT)
    refuse_another(place, CLIENT)
    refuse_another(place, CLIENT, digest)
    with pytest.raises(FednotError, match="holds the identity of client c1; name another folder"):
        refuse_another(place, OTHER)
    with pytest.raises(FednotError, match=r"key.pem is not the key of the request"):
        refuse_another(place, CLIENT, "00" * 32)


def test_a_folder_with_a_request_waits_for_its_certificate(tmp_path: Path) -> None:
    digest = write_request(tmp_path, CLIENT)
    refuse_another(tmp_path, CLIENT, digest)
    with pytest.raises(FednotError, match=r"request.pem waits to be signed"):
        refuse_another(tmp_path, CLIENT)


def test_a_folder_with_another_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_bytes(certificates.pem_of([ROOT]))
    with pytest.raises(FednotError, match=r"cert.pem is no certificate of fednot"):
        refuse_another(tmp_path, CLIENT)


def test_a_watched_folder_takes_what_replaces_it(tmp_path: Path) -> None:
    place = identity(tmp_path / "c1")
    watched = WatchedFolder(place)
    first = watched.current
    assert not watched.changed()
    identity(place)
    assert watched.changed()
    assert watched.current != first
    assert watched.current == read_credentials(place)
    assert not watched.changed()


def test_files_written_again_without_a_change_are_none(tmp_path: Path) -> None:
    watched = WatchedFolder(identity(tmp_path / "c1"))
    (watched.folder / "ca.pem").touch()
    write_private(watched.folder / "ca.pem", watched.current.trust, mode=0o644)
    assert not watched.changed()


def test_a_half_replaced_pair_is_told_once_and_then_taken(tmp_path: Path) -> None:
    place, newer = identity(tmp_path / "c1"), identity(tmp_path / "newer")
    watched = WatchedFolder(place)
    first = watched.current
    shutil.copy(newer / "key.pem", place)
    with pytest.raises(FednotError, match=r"key.pem is not the key of"):
        watched.changed()
    assert not watched.changed()
    assert watched.current == first
    shutil.copy(newer / "cert.pem", place)
    assert watched.changed()
    assert watched.current.certificate == read_credentials(newer).certificate


def test_a_folder_that_goes_is_told_once_and_taken_when_it_comes_back(tmp_path: Path) -> None:
    place = identity(tmp_path / "c1")
    watched = WatchedFolder(place)
    first = watched.current
    place.rename(tmp_path / "away")
    with pytest.raises(FednotError, match=r"there is no cert.pem in"):
        watched.changed()
    assert not watched.changed()
    (tmp_path / "away").rename(place)
    assert not watched.changed()
    assert watched.current == first


def test_a_replacement_while_it_is_read_is_seen_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are replaced right after they were read: what was seen must be older than that."""
    place = identity(tmp_path / "c1")
    watched = WatchedFolder(place)
    identity(place)
    whole = folder.read_credentials

    def read_then_replaced(where: Path) -> folder.Credentials:
        found = whole(where)
        identity(where)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(folder, "read_credentials", read_then_replaced)
        assert watched.changed()
    assert watched.current != read_credentials(place)
    assert watched.changed()
    assert watched.current == read_credentials(place)


def test_a_folder_that_cannot_be_used_is_not_watched(tmp_path: Path) -> None:
    with pytest.raises(FednotError, match=r"there is no cert.pem"):
        WatchedFolder(tmp_path)


def test_the_chain_is_read_leaf_first(tmp_path: Path) -> None:
    place = identity(tmp_path / "c1")
    leaf = read_credentials(place).certificate
    chain = certificates.pem_of([leaf, ROOT])
    write_credentials(place, chain=chain, trust=certificates.pem_of([ROOT]))
    assert read_credentials(place).certificate == leaf
    assert x509.load_pem_x509_certificates(read_credentials(place).chain) == [leaf, ROOT]
