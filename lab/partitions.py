"""How the training samples are dealt out to clients: each sample to one client, by a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fednot.data.errors import DataError
from fednot.naming import CLIENT_NAME
from lab.datasets.pool import Indices, Pool

MINIMUM: Final = 10
"""Samples that each client has at least, unless told otherwise."""

ALPHA: Final = 0.5
CLASSES: Final = 2


def partition(
    pool: Pool, name: str, clients: int, seed: int, **options: float
) -> dict[str, list[int]]:
    """The ascending indices of each client's training samples: disjoint, and complete together.

    iid: as many for each, at random. dirichlet: each class by shares drawn with `alpha` (0.5).
    pathological: `classes` (2) classes a client. natural: one client a group of the pool, named by
    it; `clients` must be their number or 0. Other clients are named client-0, client-1 and so on.
    Each has `minimum` (10) samples or more. Raises DataError if that cannot be, or for an option
    that the partition does not have.
    """
    if name not in PARTITIONS:
        raise DataError(f"{name!r} is no partition; take one of {', '.join(PARTITIONS)}")
    deal, known = PARTITIONS[name]
    if unknown := sorted(set(options) - {*known, "minimum"}):
        raise DataError(f"{name} has no option {', '.join(unknown)}; it has {[*known, 'minimum']}")
    if name != "natural" and not 1 <= clients <= len(pool.train):
        raise DataError(f"{clients} clients cannot share {len(pool.train)} samples")
    minimum = int(options.get("minimum", MINIMUM))
    parts = deal(pool, clients, seed, {**known, **options, "minimum": minimum})
    return _checked(name, parts, len(pool.train), minimum)


def _iid(pool: Pool, clients: int, seed: int, _options: Mapping[str, float]) -> dict[str, Indices]:
    order = np.random.default_rng(seed).permutation(len(pool.train))
    return _named(dict(enumerate(np.array_split(order, clients))))


def _dirichlet(
    pool: Pool, clients: int, seed: int, options: Mapping[str, float]
) -> dict[str, Indices]:
    alpha, minimum = float(options["alpha"]), int(options["minimum"])
    try:
        return _named(
            _library().dirichlet_partition(
                pool.train.targets.numpy(), clients, alpha=alpha, seed=seed, min_size=minimum
            )
        )
    except (ValueError, RuntimeError) as error:
        raise DataError(
            f"no Dirichlet partition of alpha {alpha} gives each of {clients} clients {minimum} "
            f"samples ({error}); take a larger alpha, fewer clients or a smaller minimum"
        ) from error


def _pathological(
    pool: Pool, clients: int, seed: int, options: Mapping[str, float]
) -> dict[str, Indices]:
    classes = int(options["classes"])
    try:
        return _named(
            _library().pathological_partition(
                pool.train.targets.numpy(), clients, classes_per_client=classes, seed=seed
            )
        )
    except ValueError as error:
        raise DataError(
            f"{clients} clients cannot have {classes} classes each and all samples: {error}"
        ) from error


def _natural(
    pool: Pool, clients: int, _seed: int, _options: Mapping[str, float]
) -> dict[str, Indices]:
    if pool.groups is None:
        raise DataError("this data set has no natural groups; take iid, dirichlet or pathological")
    groups = np.asarray(pool.groups)
    names = sorted(set(pool.groups))
    if wrong := [name for name in names if not CLIENT_NAME.fullmatch(name)]:
        raise DataError(f"{wrong[0]!r} is no client's name; name the groups by a-z, 0-9 and ._-")
    if clients not in (0, len(names)):
        raise DataError(f"the data has {len(names)} groups; ask for so many clients, not {clients}")
    return {name: np.flatnonzero(groups == name) for name in names}


Deal = Callable[[Pool, int, int, Mapping[str, float]], dict[str, Indices]]

PARTITIONS: Final[dict[str, tuple[Deal, dict[str, float]]]] = {
    "iid": (_iid, {}),
    "dirichlet": (_dirichlet, {"alpha": ALPHA}),
    "pathological": (_pathological, {"classes": CLASSES}),
    "natural": (_natural, {}),
}
"""Each partition, and the options that it has with their defaults."""

NAMES: Final = tuple(PARTITIONS)


def _named(parts: Mapping[int, NDArray[Any]]) -> dict[str, Indices]:
    return {f"client-{number}": parts[number] for number in range(len(parts))}


def _library() -> Any:
    """fl-data-generator, whose partitions leave no sample out. Raises DataError without it."""
    try:
        import fl_data_generator
    except ImportError as error:
        raise DataError(
            "this partition needs fl-data-generator: pip install '.[lab]' in the checkout; iid and "
            "natural need nothing"
        ) from error
    return fl_data_generator


def _checked(
    name: str, parts: Mapping[str, Indices], size: int, minimum: int
) -> dict[str, list[int]]:
    """The parts, sorted. Raises DataError unless they are disjoint, complete and large enough."""
    everything = np.sort(np.concatenate(list(parts.values())))
    if not np.array_equal(everything, np.arange(size)):
        raise DataError(
            f"the {name} partition does not deal out each of {size} samples once; take another seed"
        )
    smallest = min(parts, key=lambda client: len(parts[client]))
    if len(parts[smallest]) < max(1, minimum):
        raise DataError(
            f"the {name} partition gives {smallest} {len(parts[smallest])} samples of {size}, "
            f"fewer than the minimum of {minimum}; take more samples, fewer clients or a smaller "
            "minimum"
        )
    return {client: np.sort(indices).tolist() for client, indices in parts.items()}
