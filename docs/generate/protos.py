"""The protos with their comments, which the stubs do not have."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT: Final = Path(__file__).parents[2] / "protos"
PACKAGE: Final = "fednot.v1"

Comments = dict[tuple[int, ...], str]


class CompilerError(RuntimeError):
    """The protos cannot be read; protoc has said why on stderr."""


def read(root: Path = ROOT) -> Iterator[tuple[FileDescriptorProto, Comments]]:
    """Each proto and the comments by their path in it. Raises CompilerError."""
    for file in _compiled(root).file:
        places = file.source_code_info.location
        yield file, {tuple(place.path): place.leading_comments for place in places}


def _compiled(root: Path) -> FileDescriptorSet:
    from grpc_tools import protoc  # type: ignore[import-untyped]

    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.proto"))
    with (
        tempfile.TemporaryDirectory() as folder,
        as_file(files("grpc_tools") / "_proto") as included,
    ):
        target = Path(folder) / "set"
        flags = ["--include_source_info", f"--descriptor_set_out={target}"]
        if protoc.main(["protoc", f"-I{root}", f"-I{included}", *flags, *names]):
            raise CompilerError(f"protoc could not read the protos in {root}")
        return FileDescriptorSet.FromString(target.read_bytes())
