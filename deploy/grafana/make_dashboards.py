"""Writes Grafana's dashboards: `python deploy/grafana/make_dashboards.py [FOLDER]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef, GridPos

FOLDER: Final = Path(__file__).parent / "dashboards"
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="prometheus")
WIDTH, HEIGHT, PER_ROW = 8, 8, 3


@dataclass(frozen=True)
class Panel:
    """One graph: its title, Grafana's unit, the legend of its series, and what it asks."""

    title: str
    unit: str
    legend: str
    query: str


OVERVIEW: Final = (
    Panel("Server is up", "bool_yes_no", "{{instance}}", 'up{job="fednot-server"}'),
    Panel("Clients", "short", "{{state}}", "fednot_clients"),
    Panel(
        "Connected beyond those required",
        "short",
        "{{instance}}",
        'sum without (state) (fednot_clients{state=~"idle|working"}) - fednot_clients_required',
    ),
    Panel("Accuracy", "percentunit", "newest", "fednot_evaluation_accuracy_ratio"),
    Panel("Loss", "short", "newest", "fednot_evaluation_loss"),
    Panel("Version", "short", "newest", "fednot_model_version"),
    Panel(
        "Rounds by outcome",
        "short",
        "{{phase}} {{outcome}}",
        'increase(fednot_rounds_total{phase=~"training|recovery"}[5m])',
    ),
    Panel(
        "Mean duration of a round",
        "s",
        "{{phase}}",
        "fednot_round_duration_seconds_sum / (fednot_round_duration_seconds_count > 0)",
    ),
    Panel("Updates", "short", "{{outcome}}", "increase(fednot_updates_total[5m])"),
    Panel("Model bytes moved", "Bps", "{{direction}}", "rate(fednot_transfer_bytes_total[5m])"),
    Panel(
        "Calls by code",
        "reqps",
        "{{grpc_code}}",
        "sum by (grpc_code) (rate(grpc_server_handled_total[5m]))",
    ),
    Panel(
        "Lag of the event loop, 99 %",
        "s",
        "{{instance}}",
        "histogram_quantile(0.99, rate(fednot_event_loop_lag_seconds_bucket[5m]))",
    ),
    Panel("Buffered", "bytes", "{{instance}}", "fednot_buffered_bytes"),
    Panel(
        "Free on the fullest disk",
        "percentunit",
        "{{instance}}",
        "fednot_state_free_bytes / fednot_state_capacity_bytes",
    ),
    Panel(
        "Certificates end in",
        "s",
        "{{certificate}}",
        "(fednot_certificate_expiry_timestamp_seconds > 0) - time()",
    ),
    Panel("Clients by device", "short", "{{device}}", "fednot_fleet_clients"),
    Panel(
        "Examples of all clients", "short", "{{instance}}", "rate(fednot_fleet_examples_total[5m])"
    ),
    Panel(
        "Errors of database and disk",
        "short",
        "{{instance}}",
        "sum without (operation) (fednot_database_errors_total)"
        " + sum without (operation) (fednot_disk_errors_total)",
    ),
)
DELETIONS: Final = (
    Panel("Jobs by phase", "short", "{{phase}}", "fednot_unlearning_jobs"),
    Panel("Overdue", "short", "{{instance}}", "fednot_overdue_deletions"),
    Panel(
        "Age of the oldest open deletion",
        "s",
        "{{instance}}",
        "(time() - fednot_oldest_open_deletion_timestamp_seconds)"
        " * (fednot_oldest_open_deletion_timestamp_seconds > bool 0)",
    ),
    Panel("Ended", "short", "{{outcome}}", "fednot_unlearning_jobs_ended_total"),
    Panel(
        "Mean time in a phase",
        "s",
        "{{phase}}",
        "fednot_unlearning_phase_duration_seconds_sum"
        " / (fednot_unlearning_phase_duration_seconds_count > 0)",
    ),
    Panel("Recovery rounds", "short", "{{instance}}", "fednot_recovery_rounds_total"),
    Panel("Verdicts", "short", "{{kind}} {{verdict}}", "fednot_verification_verdicts_total"),
    Panel(
        "Completed with a failed verdict",
        "short",
        "{{kind}}",
        "fednot_deletions_that_failed_verification",
    ),
    Panel(
        "Waits since",
        "dateTimeAsIso",
        "{{for}}",
        "1000 * fednot_waiting_since_timestamp_seconds",
    ),
    Panel("Generation", "short", "{{instance}}", "fednot_model_generation"),
    Panel("Released version", "short", "{{instance}}", "fednot_model_released_version"),
    Panel("Accuracy", "percentunit", "newest", "fednot_evaluation_accuracy_ratio"),
)
DASHBOARDS: Final = {"overview": OVERVIEW, "deletions": DELETIONS}


def queries() -> Iterator[tuple[str, str]]:
    """Each panel's name, as dashboard and title, and the PromQL that it asks."""
    for name, panels in DASHBOARDS.items():
        for panel in panels:
            yield f"{name}: {panel.title}", panel.query


def render(name: str) -> str:
    """The JSON of a dashboard by its name."""
    board = (
        dashboard.Dashboard(f"fednot {name}")
        .uid(f"fednot-{name}")
        .tags(["fednot"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .readonly()
    )
    for panel in _placed(DASHBOARDS[name]):
        board = board.with_panel(panel)
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _placed(panels: Sequence[Panel]) -> Iterator[timeseries.Panel]:
    for index, panel in enumerate(panels):
        row, column = divmod(index, PER_ROW)
        yield (
            timeseries.Panel()
            .id(index + 1)
            .title(panel.title)
            .unit(panel.unit)
            .datasource(SOURCE)
            .legend(_legend())
            .grid_pos(GridPos(h=HEIGHT, w=WIDTH, x=column * WIDTH, y=row * HEIGHT))
            .with_target(
                prometheus.Dataquery()
                .expr(panel.query)
                .legend_format(panel.legend)
                .ref_id("A")
                .range()
            )
        )


def _legend() -> common.VizLegendOptions:
    shown = common.VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM)
    return shown.display_mode(LegendDisplayMode.LIST)


def main(arguments: Sequence[str]) -> None:
    """Writes every dashboard into the folder given, or where they are committed."""
    folder = Path(arguments[0]) if arguments else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name in DASHBOARDS:
        (folder / f"{name}.json").write_text(render(name))


if __name__ == "__main__":
    main(sys.argv[1:])
