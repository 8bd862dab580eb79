"""The figures that a run is judged by: ratios with the raw medians that they are made of. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.contest import Result
from benchmarks.measuring import ratio

TCP: Final = "raw TCP"
FLOOR: Final = "bare grpc.aio"
FLOOR_TLS: Final = "bare grpc.aio over mutual TLS"
OURS: Final = "fednot in plaintext"
OURS_TLS: Final = "fednot over mutual TLS"
DATA: Final = "fednot in plaintext, data channel"
DATA_TLS: Final = "fednot over mutual TLS, data channel"
FLOWER: Final = "Flower, older gRPC"
SUPERLINK: Final = "Flower, SuperLink"
NVFLARE: Final = "NVFLARE, simulator"

PLAIN: Final = "plaintext"
TLS: Final = "mutual TLS"
PEERS: Final = "peers"
MEMORY: Final = "memory"


@dataclass(frozen=True)
class Key:
    """One contestant's result at one work, in one group of contestants that took turns."""

    group: str
    name: str
    work: str


Results = Mapping[Key, Result]


@dataclass(frozen=True)
class Ratio:
    """Seconds of `over` divided by seconds of `under`."""

    over: Key
    under: Key


def ratios(work: str, ours: str = DATA, ours_tls: str = DATA_TLS) -> dict[str, Ratio]:
    """What is compared at a work, by its name in the summary.

    `ours` and `ours_tls` are the product as it is deployed, with its data channel; `over_grpc_...`
    are the same without it.
    """
    plain, tls = ({name: Key(group, name, work) for name in _NAMES} for group in (PLAIN, TLS))
    peers = {name: Key(PEERS, name, work) for name in _NAMES}
    found = {
        "tcp_ratio": Ratio(plain[ours], plain[TCP]),
        "grpc_floor_ratio": Ratio(plain[ours], plain[FLOOR]),
        "tls_ratio": Ratio(tls[ours_tls], tls[ours]),
        "tls_tcp_ratio": Ratio(tls[ours_tls], tls[TCP]),
        "tls_grpc_floor_ratio": Ratio(tls[ours_tls], tls[FLOOR_TLS]),
        "over_grpc_tcp_ratio": Ratio(plain[OURS], plain[TCP]),
        "over_grpc_floor_ratio": Ratio(plain[OURS], plain[FLOOR]),
        "over_grpc_tls_ratio": Ratio(tls[OURS_TLS], tls[OURS]),
        "over_grpc_tls_floor_ratio": Ratio(tls[OURS_TLS], tls[FLOOR_TLS]),
        "flower_grpc_ratio": Ratio(peers[FLOWER], plain[ours]),
        "flower_superlink_ratio": Ratio(peers[SUPERLINK], plain[ours]),
        "nvflare_ratio": Ratio(peers[NVFLARE], plain[ours]),
    }
    return {f"{name}_{work}": each for name, each in found.items()}


def fastest(results: Results, group: str, work: str, data: str, grpc: str) -> str:
    """The product with its data channel if that was measured, else over gRPC."""
    found = results.get(Key(group, data, work))
    return data if found is not None and found.seconds else grpc


_NAMES: Final = (
    *(TCP, FLOOR, FLOOR_TLS, OURS, OURS_TLS, DATA, DATA_TLS),
    *(FLOWER, SUPERLINK, NVFLARE),
)


def summary(
    results: Results, others: Mapping[str, Mapping[str, Any]], bare_mb: float | None = None
) -> dict[str, Any]:
    """The entries by name: `ratio`, `medians`, and `why` where there is no ratio.

    `others` are the entries of whatever is no contest, `bare_mb` what an idle server has with a
    model of a few bytes.
    """
    entries = {
        name: _of_seconds(each, results)
        for work in dict.fromkeys(
            ("8x100", "8x10", *(key.work for key in results if key.group == PLAIN))
        )
        for name, each in ratios(
            work,
            fastest(results, PLAIN, work, DATA, OURS),
            fastest(results, TLS, work, DATA_TLS, OURS_TLS),
        ).items()
    }
    ours = results.get(Key(PLAIN, fastest(results, PLAIN, "8x100", DATA, OURS), "8x100"))
    grown = fastest(results, MEMORY, "32x100", DATA, OURS)
    entries["memory_models_8x100"] = _models(ours, bare_mb)
    entries["memory_over_flower_8x100"] = _of_memory(ours, results.get(Key(PEERS, FLOWER, "8x100")))
    entries["memory_growth_32_over_4"] = _of_memory(
        results.get(Key(MEMORY, grown, "32x100")), results.get(Key(MEMORY, grown, "4x100"))
    )
    entries["over_grpc_memory_growth_32_over_4"] = _of_memory(
        results.get(Key(MEMORY, OURS, "32x100")), results.get(Key(MEMORY, OURS, "4x100"))
    )
    return entries | dict(others)


def _of_seconds(compared: Ratio, results: Results) -> dict[str, Any]:
    sides = [(key, results.get(key)) for key in (compared.over, compared.under)]
    medians = {key.name: result.median for key, result in sides if result is not None}
    why = [_why(key.name, result) for key, result in sides if not result or not result.seconds]
    over, under = (result.median if result else None for _, result in sides)
    return entry(ratio(over, under), medians, why)


def _of_memory(over: Result | None, under: Result | None) -> dict[str, Any]:
    medians = {
        f"{each.name} {each.work.label} {name}": value
        for each in (over, under)
        if each is not None and each.memory is not None
        for name, value in each.memory.row().items()
    }
    if over is None or under is None or over.memory is None or under.memory is None:
        return entry(None, medians, ["one of the two was not measured"])
    return entry(ratio(over.memory.above_idle, under.memory.above_idle), medians)


def _models(ours: Result | None, bare_mb: float | None) -> dict[str, Any]:
    if ours is None or ours.memory is None:
        return entry(None, {}, [_why(OURS, ours)])
    medians = dict(ours.memory.row())
    if bare_mb is not None:
        medians["above_server_without_model_mb"] = round(ours.memory.peak - bare_mb, 1)
    return entry(ratio(ours.memory.above_idle, ours.work.nbytes / 1e6), medians)


def _why(name: str, result: Result | None) -> str:
    return f"{name}: {result.why if result and result.why else 'not measured in this run'}"


def entry(
    value: float | None, medians: Mapping[str, Any], why: Sequence[str] = ()
) -> dict[str, Any]:
    """One entry of the summary."""
    found: dict[str, Any] = {"ratio": value, "medians": dict(medians)}
    return found if value is not None else found | {"why": "; ".join(why) or "not measured"}


def table(results: Results) -> str:
    """Every contestant's figures in rows, each beside raw TCP of its own group and work."""
    rows = [("group", "work", "who", "s/round", "x TCP", "MB above idle", "models", "wire")]
    for key, result in results.items():
        limit = results.get(Key(key.group, TCP, key.work)) or results.get(Key(PLAIN, TCP, key.work))
        row = result.row()
        beside = ratio(result.median, limit.median if limit else None)
        shown = (row.get("seconds"), beside, row.get("above_idle_mb"), row.get("models"))
        cells = [_cell(value) for value in (*shown, row.get("wire_over_payload"))]
        rows.append((key.group, key.work, key.name, *cells))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    whys = [f"{key.name} {key.work}: {each.why}" for key, each in results.items() if each.why]
    return "\n".join([*lines, *whys])


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
