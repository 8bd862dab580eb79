"""A server that speaks S3 on loopback, moto's, in a process of its own."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from support.ports import free_port

LACKING: Final = [name for name in ("s3fs", "moto", "flask") if find_spec(name) is None]
_PROGRAM: Final = "import sys; from moto.server import main; main(sys.argv[1:])"


@dataclass(frozen=True)
class S3Server:
    """Where it is, for the standard variables of AWS."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            # Else a profile of whoever runs the tests would be in force too.
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @cached_property
    def client(self) -> Any:
        import botocore.session

        return botocore.session.get_session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id="other",
            aws_secret_access_key="other",
        )

    def new_bucket(self) -> BucketAsSeen:
        """An empty bucket."""
        bucket = BucketAsSeen(self, f"test-{secrets.token_hex(6)}")
        bucket.call("create_bucket")
        return bucket


@dataclass(frozen=True)
class BucketAsSeen:
    """What another program sees of a bucket, and does to it."""

    server: S3Server
    name: str

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Calls a method of botocore's client."""
        found: dict[str, Any] = getattr(self.server.client, method)(Bucket=self.name, **arguments)
        return found

    def names(self) -> list[str]:
        """The names of up to 1000 objects."""
        return sorted(row["Key"] for row in self.call("list_objects_v2").get("Contents", ()))

    def uploads(self) -> list[str]:
        """The names of objects whose upload is neither complete nor aborted."""
        return [row["Key"] for row in self.call("list_multipart_uploads").get("Uploads", ())]

    def begin_upload(self, key: str) -> None:
        """What a program leaves that is killed after its first part."""
        begun = self.call("create_multipart_upload", Key=key)["UploadId"]
        self.call("upload_part", Key=key, UploadId=begun, PartNumber=1, Body=b"half")


@contextmanager
def served_s3(log: Path) -> Iterator[S3Server]:
    """Serves S3; skips the test if what that takes is not installed."""
    if LACKING:
        pytest.skip(f"S3 needs {', '.join(LACKING)}, which is not installed")
    port = free_port()
    with log.open("wb") as output:
        arguments = [sys.executable, "-c", _PROGRAM, "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(arguments, stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        _await(url, process, log)
        yield S3Server(url)
    finally:
        process.kill()
        process.wait(20)


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            with urlopen(f"{url}/moto-api/data.json", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"moto's server did not answer in 60 s: {log.read_text()[-2000:]}")
