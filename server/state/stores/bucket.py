"""The calls to a bucket that speaks S3, each bounded; those that make something last have names.

Credentials, region and endpoint come from where every program of AWS looks for them
(AWS_ACCESS_KEY_ID, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL, a profile, a role of the machine).
"""

from __future__ import annotations

import errno
import io
import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import s3fs
from aiohttp import ClientError as TransportError
from botocore.exceptions import BotoCoreError

from server.failpoints import around
from server.state.database import StateError

log = logging.getLogger("server.state.stores")

PART: Final = 8 << 20
IN_FLIGHT: Final = 2
MOST_PARTS: Final = 10_000
PAGE: Final = 1000
CONNECT_TIMEOUT: Final = 10
READ_TIMEOUT: Final = 30
LONGEST: Final = 120.0
"""Seconds of a call with all its attempts; no other limit ends one whose peer reads no more."""
ATTEMPTS: Final = 4
ATTEMPTS_AROUND: Final = 2
"""Of s3fs, each with its own ATTEMPTS of botocore: only s3fs tries again when a body is cut."""


@dataclass(frozen=True)
class Upload:
    """A multipart upload that was begun and is neither complete nor aborted."""

    key: str
    id: str


class Bucket:
    """A bucket. Whatever goes wrong on the way to it is an OSError."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._system = s3fs.S3FileSystem(
            anon=False,
            use_listings_cache=False,
            skip_instance_cache=True,
            config_kwargs={
                "connect_timeout": CONNECT_TIMEOUT,
                "read_timeout": READ_TIMEOUT,
                "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
            },
        )
        self._system.retries = ATTEMPTS_AROUND

    def refuse_what_keeps_the_deleted(self, prefix: str) -> None:
        """Raises StateError if the bucket cannot be used, or keeps what is deleted from it."""
        url = f"s3://{self._name}"
        try:
            status = self._versioning()
            kept = status == "Enabled" or (status == "Suspended" and self._has_older(prefix))
        except FileNotFoundError as error:
            raise StateError(f"there is no bucket {url}: make it, without versioning") from error
        except PermissionError as error:
            raise StateError(
                f"{url} does not tell whether it keeps old versions: allow s3:GetBucketVersioning "
                f"and s3:ListBucketVersions ({error})"
            ) from error
        except OSError as error:
            raise StateError(f"{url} cannot be used: {error}") from error
        if kept:
            raise StateError(
                f"{url} keeps old versions of objects, so that nothing could be forgotten: use a "
                "bucket that never had versioning, or suspend it and delete every old version "
                f"under {prefix or 'the bucket'}"
            )

    def size(self, key: str) -> int | None:
        """An object's size; None if there is no such object."""
        try:
            found: int = self._call("head_object", Key=key)["ContentLength"]
        except FileNotFoundError:
            return None
        return found

    def fetch(self, key: str, start: int, end: int) -> bytes:
        """A range of an object's bytes. Raises FileNotFoundError if there is no such object."""
        with _as_os_error():
            content: bytes = self._system.cat_file(
                f"{self._name}/{key}", start=start, end=end, timeout=LONGEST
            )
        return content

    def upload(self, key: str, size: int, pieces: Iterator[memoryview]) -> None:
        """Stores an object of a known size: it is there as a whole or not at all."""
        begun = self._begin(key)
        try:
            self._complete(begun, size, self._send(begun, size, pieces))
        except BaseException:
            try:
                self.abort(begun)
            except OSError as error:
                log.warning("an upload that failed is left for the next sweep: %s", error)
            raise

    def delete(self, key: str) -> None:
        """Deletes an object."""
        with around("delete.version-object"):
            self._call("delete_object", Key=key)

    def abort(self, upload: Upload) -> None:
        """Drops what an upload has sent; nothing if it is gone."""
        with around("abort.version-upload"):
            try:
                self._call("abort_multipart_upload", Key=upload.key, UploadId=upload.id)
            except FileNotFoundError:
                log.debug("an upload was gone before it was aborted")

    def keys(self, prefix: str) -> Iterator[str]:
        """The objects directly under a prefix, and each deeper prefix once."""
        onward: dict[str, str] = {}
        while True:
            found = self._call(
                "list_objects_v2", Prefix=prefix, Delimiter="/", MaxKeys=PAGE, **onward
            )
            yield from (row["Key"] for row in found.get("Contents", ()))
            yield from (row["Prefix"] for row in found.get("CommonPrefixes", ()))
            if not found.get("IsTruncated"):
                return
            onward = {"ContinuationToken": found["NextContinuationToken"]}

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """The uploads under a prefix that are neither complete nor aborted."""
        onward: dict[str, str] = {}
        while True:
            found = self._call("list_multipart_uploads", Prefix=prefix, MaxUploads=PAGE, **onward)
            yield from (Upload(row["Key"], row["UploadId"]) for row in found.get("Uploads", ()))
            if not found.get("IsTruncated"):
                return
            onward = {
                "KeyMarker": found["NextKeyMarker"],
                "UploadIdMarker": found["NextUploadIdMarker"],
            }

    def _begin(self, key: str) -> Upload:
        with around("begin.version-upload"):
            found = self._call(
                "create_multipart_upload", Key=key, ContentType="application/octet-stream"
            )
        return Upload(key, found["UploadId"])

    def _send(self, upload: Upload, size: int, pieces: Iterator[memoryview]) -> list[Any]:
        """Sends the parts; as many as IN_FLIGHT are on their way while the next one is filled."""
        waiting: deque[Future[dict[str, Any]]] = deque()
        sent = []
        with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="part") as senders:
            for number, part in enumerate(_parts(pieces, part_size(size)), start=1):
                waiting.append(senders.submit(self._send_part, upload, number, part))
                if len(waiting) == IN_FLIGHT:
                    sent.append(waiting.popleft().result())
            sent += [left.result() for left in waiting]
        return sent

    def _send_part(self, upload: Upload, number: int, part: bytes) -> dict[str, Any]:
        place = {"Key": upload.key, "UploadId": upload.id, "PartNumber": number}
        answer = self._call("upload_part", **place, Body=part)
        return {"ETag": answer["ETag"], "PartNumber": number}

    def _complete(self, upload: Upload, size: int, parts: list[Any]) -> None:
        try:
            with around("complete.version-upload"):
                self._call(
                    "complete_multipart_upload",
                    Key=upload.key,
                    UploadId=upload.id,
                    MultipartUpload={"Parts": parts},
                )
        except FileNotFoundError:
            # So says a second try if the first succeeded and only its answer was lost.
            if self.size(upload.key) != size:
                raise

    def _versioning(self) -> str:
        try:
            status: str = self._call("get_bucket_versioning").get("Status", "")
        except OSError as error:
            if error.errno == errno.ENOSYS:
                return ""
            raise
        return status

    def _has_older(self, prefix: str) -> bool:
        """Whether versions from before the suspension are left, which a deletion does not touch."""
        onward: dict[str, str] = {}
        while True:
            found = self._call("list_object_versions", Prefix=prefix, MaxKeys=PAGE, **onward)
            if any(row["VersionId"] != "null" for row in found.get("Versions", ())):
                return True
            if not found.get("IsTruncated"):
                return False
            onward = {
                "KeyMarker": found["NextKeyMarker"],
                "VersionIdMarker": found["NextVersionIdMarker"],
            }

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        with _as_os_error():
            found: dict[str, Any] = self._system.call_s3(
                method, Bucket=self._name, timeout=LONGEST, **arguments
            )
        return found


def part_size(size: int) -> int:
    """How large the parts of an object are, so that there are no more than S3 allows."""
    return max(PART, -(-size // MOST_PARTS))


def _parts(pieces: Iterator[memoryview], size: int) -> Iterator[bytes]:
    part = io.BytesIO()
    for piece in pieces:
        rest = piece
        while rest:
            room = size - part.tell()
            part.write(rest[:room])
            rest = rest[room:]
            if part.tell() == size:
                yield part.getvalue()
                part = io.BytesIO()
    if part.tell():
        yield part.getvalue()


@contextmanager
def _as_os_error() -> Iterator[None]:
    """What s3fs leaves of the libraries below it as it is: no connection, no credentials."""
    try:
        yield
    except TimeoutError as error:
        raise OSError(errno.ETIMEDOUT, f"no answer in {LONGEST:g} s") from error
    except (BotoCoreError, TransportError) as error:
        raise OSError(errno.EIO, str(error)) from error
