"""The manifest: the ordered list of a model's tensors and where each stands in the flat model.

A flat model is one run of little-endian bytes. Each tensor starts at a multiple of 8, so that any
dtype can be viewed in place; the bytes between tensors are zero.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

import torch
from torch import nn

ALIGNMENT: Final = 8
MAX_DIMENSIONS: Final = 16
MAX_SIZE: Final = 1 << 40
DTYPES: Final[dict[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_DTYPE_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


class ManifestError(ValueError):
    """A model that a manifest cannot describe, or a manifest that describes no model."""


class TensorKind(StrEnum):
    """Whether gradient descent learns a tensor."""

    PARAMETER = "parameter"
    BUFFER = "buffer"


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: its state-dict name, dtype, shape, kind, owner's class name and place."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: TensorKind
    module_type: str
    byte_offset: int
    aliases: tuple[str, ...] = ()

    @property
    def torch_dtype(self) -> torch.dtype:
        """The element type for torch."""
        return DTYPES[self.dtype]

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes it takes, without padding."""
        return self.numel * self.torch_dtype.itemsize


@dataclass(frozen=True)
class Manifest:
    """A model's tensors in registration order."""

    tensors: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        end = 0
        names: set[str] = set()
        for spec in self.tensors:
            _check(spec, end, names)
            end = _aligned(spec.byte_offset + spec.nbytes)

    def __iter__(self) -> Iterator[TensorSpec]:
        return iter(self.tensors)

    def __getitem__(self, name: str) -> TensorSpec:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @cached_property
    def _by_name(self) -> dict[str, TensorSpec]:
        return {spec.name: spec for spec in self.tensors}

    @cached_property
    def nbytes(self) -> int:
        """The size of the flat model, padding included."""
        last = self.tensors[-1] if self.tensors else None
        return _aligned(last.byte_offset + last.nbytes) if last else 0

    @cached_property
    def digest(self) -> str:
        """sha256 over names, dtypes, shapes, kinds and offsets; module types do not count."""
        rows = [[t.name, t.dtype, list(t.shape), t.kind, t.byte_offset] for t in self.tensors]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    def differences(self, other: Manifest) -> list[str]:
        """What `other` has otherwise, a sentence for each tensor."""
        rows = []
        for name in sorted(self._by_name.keys() | other._by_name.keys()):
            mine, theirs = self._by_name.get(name), other._by_name.get(name)
            if mine is None:
                rows.append(f"{name} is unexpected")
            elif theirs is None:
                rows.append(f"{name} is missing")
            elif (mine.dtype, mine.shape, mine.kind) != (theirs.dtype, theirs.shape, theirs.kind):
                rows.append(f"{name} is {_describe(theirs)}, not {_describe(mine)}")
        if not rows and self.digest != other.digest:
            rows.append("the tensors stand in another order")
        return rows

    def to_json(self) -> str:
        """The manifest as JSON text, for a model file's metadata."""
        return json.dumps([asdict(spec) for spec in self.tensors], separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Reads what `to_json` wrote. Raises ManifestError if it is not a manifest."""
        try:
            return cls(tuple(_spec_from_row(row) for row in json.loads(text)))
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise ManifestError(f"not a manifest: {error}") from error

    @classmethod
    def of(cls, module: nn.Module) -> Manifest:
        """Describes a module's state dict; tied tensors are listed once, with their aliases.

        Raises ManifestError for a dtype that fednot cannot carry, for state that is no tensor, and
        for parameters that share memory without being the same tensor.
        """
        types = _owner_types(module)
        parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        first_name: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
        aliases: dict[str, list[str]] = {}
        state = module.state_dict(keep_vars=True)
        for name, tensor in state.items():
            if not isinstance(tensor, torch.Tensor):
                raise ManifestError(f"{name} is a {type(tensor).__name__}, not a tensor")
            # Empty and meta tensors have no address.
            key = (tensor.data_ptr() or id(tensor), tensor.shape, tensor.stride())
            if key in first_name:
                aliases[first_name[key]].append(name)
            else:
                first_name[key] = name
                aliases[name] = []
        _refuse_overlaps({name: state[name] for name in aliases if name in parameters})
        return cls(tuple(_laid_out(state, aliases, types, parameters)))


def _laid_out(
    state: dict[str, torch.Tensor],
    aliases: dict[str, list[str]],
    types: dict[str, str],
    parameters: set[str],
) -> Iterator[TensorSpec]:
    offset = 0
    for name, others in aliases.items():
        tensor = state[name]
        if tensor.dtype not in _DTYPE_NAMES:
            raise ManifestError(f"{name} is {tensor.dtype}; use one of {', '.join(DTYPES)}")
        kind = TensorKind.PARAMETER if name in parameters else TensorKind.BUFFER
        dtype = _DTYPE_NAMES[tensor.dtype]
        owner = types.get(name, "")
        spec = TensorSpec(name, dtype, tuple(tensor.shape), kind, owner, offset, tuple(others))
        yield spec
        offset = _aligned(offset + spec.nbytes)


def _refuse_overlaps(parameters: dict[str, torch.Tensor]) -> None:
    # A flat model holds each by itself, so loading one would overwrite the other.
    spans = sorted(
        (str(tensor.device), tensor.data_ptr(), _extent(tensor), name)
        for name, tensor in parameters.items()
        if tensor.data_ptr()
    )
    for (device, start, extent, name), (next_device, next_start, _, other) in pairwise(spans):
        if device == next_device and next_start < start + extent:
            raise ManifestError(
                f"{name} and {other} share memory but not their shape; tie them as one tensor"
            )


def _extent(tensor: torch.Tensor) -> int:
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return (1 + sum((size - 1) * stride for size, stride in steps)) * tensor.itemsize


def _owner_types(module: nn.Module) -> dict[str, str]:
    types = {}
    for prefix, owner in module.named_modules():
        for name, _ in (
            *owner.named_parameters(recurse=False),
            *owner.named_buffers(recurse=False),
        ):
            types[f"{prefix}.{name}" if prefix else name] = type(owner).__name__
    return types


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _check(spec: TensorSpec, end: int, names: set[str]) -> None:
    if not spec.name or spec.name in names:
        raise ManifestError(f"tensor name {spec.name!r} is empty or stands twice")
    names.add(spec.name)
    if spec.dtype not in DTYPES:
        raise ManifestError(f"{spec.name} has dtype {spec.dtype!r}; use one of {', '.join(DTYPES)}")
    if len(spec.shape) > MAX_DIMENSIONS:
        raise ManifestError(f"{spec.name} has {len(spec.shape)} dimensions, over {MAX_DIMENSIONS}")
    if any(not 0 <= size < MAX_SIZE for size in spec.shape):
        raise ManifestError(f"{spec.name} has a size below 0 or over {MAX_SIZE}")
    if spec.byte_offset != end:
        raise ManifestError(f"{spec.name} starts at byte {spec.byte_offset}, not {end}")


def _describe(spec: TensorSpec) -> str:
    return f"a {spec.kind} {spec.dtype}{list(spec.shape)}"


def _spec_from_row(row: dict[str, Any]) -> TensorSpec:
    return TensorSpec(
        name=str(row["name"]),
        dtype=str(row["dtype"]),
        shape=tuple(int(size) for size in row["shape"]),
        kind=TensorKind(row["kind"]),
        module_type=str(row["module_type"]),
        byte_offset=int(row["byte_offset"]),
        aliases=tuple(str(alias) for alias in row["aliases"]),
    )
