"""One end of a data connection over real sockets: what comes, what does not, and what hangs."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.identities import Identities

from fednot import tls_contexts
from fednot.data_link import DataLink, LinkClosedError
from fednot.data_messages import DataMessageError, framed
from fednot.identity.folder import read_credentials
from fednot.identity.subject import Role
from fednot.v1 import model_pb2

SOON = 0.3
LATER = 10.0
BIG = 32 << 20
TRAILER = model_pb2.StreamTrailer(xxh3_128="0123")


@pytest.fixture(params=["tcp", "tls"])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[DataLink, DataLink]]:
    here, there = connected()
    if request.param == "tls":
        identities = Identities(tmp_path)
        serving = tls_contexts.serving_context(read_credentials(identities.server))
        own = read_credentials(identities.of(Role.CLIENT, "c1"))
        dialling = tls_contexts.dialling_context(own)
        with in_thread(lambda: there.secure(serving, time.monotonic() + LATER)):
            here.secure(dialling, time.monotonic() + LATER, server_hostname="localhost")
    yield here, there
    here.close()
    there.close()


def connected() -> tuple[DataLink, DataLink]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        there, _ = listener.accept()
    return DataLink(here), DataLink(there)


class in_thread:  # noqa: N801
    """Does something beside the block, and joins it at the block's end."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._body, args=(work,))

    def _body(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            self._errors.append(error)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(LATER)
        assert not self._thread.is_alive(), "it hangs"
        if self._errors:
            raise self._errors[0]


def until(seconds: float) -> float:
    return time.monotonic() + seconds


def test_bytes_and_messages_arrive_as_they_were_sent(ends: tuple[DataLink, DataLink]) -> None:
    here, there = ends
    data = memoryview(bytes(range(256)) * (BIG // 256))

    def send() -> None:
        here.send(data, LATER)
        here.send(memoryview(framed(TRAILER)), LATER)

    with in_thread(send):
        assert there.read(BIG, until(LATER)) == data
        assert there.receive(until(LATER)) == TRAILER.SerializeToString()


def test_nothing_is_read_while_nothing_is_there(ends: tuple[DataLink, DataLink]) -> None:
    here, there = ends
    assert there.read_some(memoryview(bytearray(10))) == 0
    assert not there.has_news()
    assert there.receive_if_any(until(SOON)) is None
    here.send(memoryview(framed(TRAILER)), SOON)
    assert there.rest(LATER)
    assert there.receive_if_any(until(SOON)) == TRAILER.SerializeToString()


def test_a_message_after_raw_bytes_is_not_forgotten(ends: tuple[DataLink, DataLink]) -> None:
    """Over TLS both may be in one record, of which the socket knows nothing any more."""
    here, there = ends
    here.send(memoryview(b"raw" + framed(TRAILER)), SOON)
    assert there.read(3, until(LATER)) == b"raw"
    assert there.rest(SOON)
    assert there.receive(until(SOON)) == TRAILER.SerializeToString()


def test_silence_ends_in_time_and_is_looked_at(ends: tuple[DataLink, DataLink]) -> None:
    _, there = ends
    looks: list[float] = []
    begun = time.monotonic()
    with (
        there.looking(lambda: looks.append(time.monotonic())),
        pytest.raises(TimeoutError),
    ):
        there.receive(until(0.5))
    assert 0.5 <= time.monotonic() - begun < LATER
    assert looks


def test_half_a_message_ends_in_time(ends: tuple[DataLink, DataLink]) -> None:
    here, there = ends
    here.send(memoryview(framed(TRAILER)[:5]), SOON)
    with pytest.raises(TimeoutError):
        there.receive(until(SOON))


def test_a_look_that_raises_ends_the_wait(ends: tuple[DataLink, DataLink]) -> None:
    _, there = ends

    def look() -> None:
        raise KeyError("enough")

    with there.looking(look), pytest.raises(KeyError):
        there.receive(until(LATER))
    assert there.look() is None


def test_who_takes_nothing_is_waited_for_and_no_longer(ends: tuple[DataLink, DataLink]) -> None:
    here, _ = ends
    with pytest.raises(TimeoutError):
        here.send(memoryview(bytes(BIG)), SOON)


def test_news_interrupt_a_sender_who_waits(ends: tuple[DataLink, DataLink]) -> None:
    here, there = ends
    heard: list[bytes | None] = []

    def news() -> None:
        heard.append(here.receive_if_any(until(SOON)))
        raise InterruptedError

    with (
        in_thread(lambda: there.send(memoryview(framed(TRAILER)), LATER)),
        pytest.raises(InterruptedError),
    ):
        here.send(memoryview(bytes(BIG)), LATER, news)
    assert heard == [TRAILER.SerializeToString()]


def test_the_end_of_the_other_side_is_seen(ends: tuple[DataLink, DataLink]) -> None:
    here, there = ends
    assert not there.hung_up()
    here.close()
    assert there.rest(LATER)
    assert there.hung_up()
    with pytest.raises(LinkClosedError):
        there.receive(until(SOON))


def test_another_thread_can_cut_a_wait(ends: tuple[DataLink, DataLink]) -> None:
    _, there = ends
    timer = threading.Timer(0.1, there.cut)
    timer.start()
    with pytest.raises(LinkClosedError):
        there.receive(until(LATER))
    timer.join()
    there.cut()


def test_what_was_sent_last_survives_bytes_that_nobody_read(
    ends: tuple[DataLink, DataLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without draining, closing with unread bytes resets the connection."""
    monkeypatch.setattr("fednot.data_link.DRAIN_SECONDS", LATER)
    here, there = ends
    data = memoryview(bytes(8 << 20))

    def refuse() -> None:
        there.read(1000, until(LATER))
        there.send(memoryview(framed(TRAILER)), LATER)
        there.close(drain=True)

    with in_thread(refuse):
        here.send(data, LATER)
        assert here.receive(until(LATER)) == TRAILER.SerializeToString()
        here.close()


def test_a_size_that_is_too_large_is_refused_before_anything_is_read(
    ends: tuple[DataLink, DataLink],
) -> None:
    here, there = ends
    here.send(memoryview(b"\xff\xff\xff\xff"), SOON)
    with pytest.raises(DataMessageError):
        there.receive(until(SOON))


def test_a_handshake_with_somebody_who_is_silent_ends_in_time(tmp_path: Path) -> None:
    here, there = connected()
    context = tls_contexts.serving_context(read_credentials(Identities(tmp_path).server))
    with pytest.raises(TimeoutError):
        there.secure(context, until(SOON))
    here.close()
    there.close()


def test_nobody_gets_in_without_a_certificate(tmp_path: Path) -> None:
    here, there = connected()
    context = tls_contexts.serving_context(read_credentials(Identities(tmp_path).server))
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    with (
        in_thread(lambda: here.secure(bare, until(LATER), server_hostname="localhost")),
        pytest.raises(ssl.SSLError),
    ):
        there.secure(context, until(LATER))
    here.close()
    there.close()


def test_a_wait_for_room_ends_when_the_other_side_is_gone() -> None:
    here, there = connected()
    there.close()
    time.sleep(0.05)
    with pytest.raises(ConnectionError):
        here.send(memoryview(bytes(BIG)), LATER)
    here.close()


@pytest.mark.parametrize("memory_files", [True, False])
def test_a_private_key_is_in_no_file_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_files: bool
) -> None:
    own = read_credentials(Identities(tmp_path / "identity").server)
    places = tmp_path / "tmp"
    places.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(places))
    if not memory_files:
        monkeypatch.delattr(tls_contexts.os, "memfd_create")
    made = tls_contexts.serving_context(own)
    assert made.get_ca_certs()
    assert not list(places.iterdir())
