"""Writes Grafana's dashboards: `python deploy/grafana/make_dashboards.py [FOLDER]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    GridPos,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)

FOLDER: Final = Path(__file__).parent / "dashboards"
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
SERVERS: Final = 'up{job="fednot-server"}'
HERE: Final = 'job="fednot-server",instance="$instance"'
"""What `$here` in a query stands for: the server that is chosen above the panels."""
WIDTH, HEIGHT, PER_ROW = 8, 8, 3


@dataclass(frozen=True)
class Panel:
    """One graph: its title, Grafana's unit, the legend of its series, what it asks and what that
    means, and from which value on it is bad ("red") or, the other way round, good ("green").
    """

    title: str
    unit: str
    legend: str
    query: str
    meaning: str
    turns: str = ""
    at: float = 0.0


def _mean(metric: str, window: str = "15m") -> str:
    """The mean of what a histogram was told lately; NaN, which is not drawn, if that is nothing."""
    return f"rate({metric}_sum{{$here}}[{window}]) / rate({metric}_count{{$here}}[{window}])"


ACCURACY: Final = Panel(
    "Accuracy",
    "percentunit",
    "newest version",
    "fednot_evaluation_accuracy_ratio{$here}",
    "A gap means that the newest version is not scored, as after a negation.",
)
OVERVIEW: Final = (
    Panel("Server is up", "bool_yes_no", "server", "up{$here}", "FednotServerDown."),
    Panel(
        "Alerts that fire",
        "none",
        "all",
        'sum(ALERTS{alertname=~"Fednot.*",alertstate="firing",$here}) or vector(0)',
        "Each has a runbook in docs/operations.md under its name. The names are in Alertmanager.",
        "red",
        1,
    ),
    Panel(
        "Connected beyond those required",
        "none",
        "clients",
        'sum without (state) (fednot_clients{state=~"idle|working",$here})'
        " - fednot_clients_required{$here}",
        "Below 0 no round starts: FednotQuorumLost.",
        "green",
    ),
    Panel(
        "Clients",
        "none",
        "{{state}}",
        "fednot_clients{$here}",
        "Of all that ever joined. Gone ones are not connected: FednotClientsGone.",
    ),
    ACCURACY,
    Panel("Loss", "none", "newest version", "fednot_evaluation_loss{$here}", "On held-out data."),
    Panel(
        "Version",
        "none",
        "newest",
        "fednot_model_version{$here}",
        "The released one is on the dashboard of deletions.",
    ),
    Panel(
        "Rounds within 5 minutes",
        "none",
        "{{phase}} {{outcome}}",
        'increase(fednot_rounds_total{phase=~"training|recovery",$here}[5m])',
        "FednotRoundsFail tells of three that failed within half an hour.",
    ),
    Panel(
        "Mean duration of a round",
        "s",
        "{{phase}}",
        _mean("fednot_round_duration_seconds"),
        "Of the rounds of the last 15 minutes, evaluation included.",
    ),
    Panel(
        "Updates within 5 minutes",
        "none",
        "{{outcome}}",
        "increase(fednot_updates_total{$here}[5m])",
        "Accepted, refused, missing (a client had work and sent none), or dropped with its round.",
    ),
    Panel(
        "Refused updates within 5 minutes",
        "none",
        "{{reason}}",
        "topk(5, increase(fednot_refused_updates_total{$here}[5m]))",
        "The five most frequent reasons.",
    ),
    Panel(
        "Refused calls within 5 minutes",
        "none",
        "{{reason}}",
        "topk(5, increase(fednot_refusals_total{$here}[5m]))",
        "The five most frequent reasons. Each refusal that denied something is in the audit.",
    ),
    Panel(
        "Calls by code",
        "reqps",
        "{{grpc_code}}",
        "sum by (grpc_code) (rate(grpc_server_handled_total{$here}[5m]))",
        "Internal, Unknown and DataLoss are the server's fault: FednotCallsFail.",
    ),
    Panel(
        "Latency of unary calls, 99 %",
        "s",
        "all but PollWork",
        "histogram_quantile(0.99, sum by (le) (rate(grpc_server_handling_seconds_bucket"
        '{grpc_type="unary",grpc_method!="PollWork",$here}[5m])))',
        "PollWork is held until there is work.",
    ),
    Panel(
        "Lag of the event loop, 99 %",
        "s",
        "server",
        "histogram_quantile(0.99, rate(fednot_event_loop_lag_seconds_bucket{$here}[5m]))",
        "How late the server wakes: FednotEventLoopLags.",
        "red",
        1,
    ),
    Panel(
        "Model bytes moved",
        "Bps",
        "{{direction}}",
        "rate(fednot_transfer_bytes_total{$here}[5m])",
        "As the server sees it, over gRPC and the data channel.",
    ),
    Panel(
        "Mean arithmetic of an aggregation",
        "s",
        "server",
        _mean("fednot_aggregation_duration_seconds"),
        "Without the wait for clients.",
    ),
    Panel(
        "Buffered",
        "bytes",
        "server",
        "fednot_buffered_bytes{$here}",
        "Memory of models, sums and arriving updates.",
    ),
    Panel(
        "Free on the fullest disk",
        "percentunit",
        "server",
        "fednot_state_free_bytes{$here} / fednot_state_capacity_bytes{$here}",
        "FednotDiskLow.",
        "green",
        0.1,
    ),
    Panel(
        "Database errors within 15 minutes",
        "none",
        "{{operation}}",
        "increase(fednot_database_errors_total{$here}[15m])",
        "FednotDatabaseErrors.",
        "red",
        1,
    ),
    Panel(
        "Disk errors within 15 minutes",
        "none",
        "{{operation}}",
        "increase(fednot_disk_errors_total{$here}[15m])",
        "FednotDiskErrors.",
        "red",
        1,
    ),
    Panel(
        "Certificates end in",
        "s",
        "{{certificate}}",
        "(fednot_certificate_expiry_timestamp_seconds{$here} > 0) - time()",
        "Two weeks before: FednotCertificateNearExpiry. Empty in plaintext.",
        "green",
        14 * 86400,
    ),
    Panel(
        "Clients by device",
        "none",
        "{{device}}",
        "fednot_fleet_clients{$here}",
        "Of those that are connected.",
    ),
    Panel(
        "Fell back to the CPU",
        "none",
        "clients",
        "fednot_fleet_degraded_clients{$here}",
        "Connected clients that were to train on CUDA.",
        "red",
        1,
    ),
    Panel(
        "Mean local training",
        "s",
        "all clients",
        _mean("fednot_fleet_train_duration_seconds"),
        "As their heartbeats tell.",
    ),
)
DELETIONS: Final = (
    Panel(
        "Jobs by phase",
        "none",
        "{{phase}}",
        "fednot_unlearning_jobs{$here}",
        "All that there ever were; `fednot jobs` names them.",
    ),
    Panel(
        "Overdue",
        "none",
        "deletions",
        "fednot_overdue_deletions{$here}",
        "FednotDeletionOverdue.",
        "red",
        1,
    ),
    Panel(
        "Age of the oldest open deletion",
        "s",
        "deletion",
        "(time() - fednot_oldest_open_deletion_timestamp_seconds{$here})"
        " * (fednot_oldest_open_deletion_timestamp_seconds{$here} > bool 0)",
        "0 if none is open. After a week: FednotDeletionOpenLong.",
        "red",
        7 * 86400,
    ),
    Panel(
        "Waits for",
        "s",
        "{{for}}",
        "(time() - fednot_waiting_since_timestamp_seconds{$here})"
        " * (fednot_waiting_since_timestamp_seconds{$here} > bool 0)",
        "For how long the server waits, 0 if it does not; `fednot status` has the sentence.",
    ),
    Panel(
        "Ended within a day",
        "none",
        "{{outcome}}",
        "increase(fednot_unlearning_jobs_ended_total{$here}[1d])",
        "FednotDeletionFailed tells of those that failed.",
    ),
    Panel(
        "Mean time in a phase",
        "s",
        "{{phase}}",
        "fednot_unlearning_phase_duration_seconds_sum{$here}"
        " / (fednot_unlearning_phase_duration_seconds_count{$here} > 0)",
        "Of all jobs since the server started.",
    ),
    Panel(
        "Recovery rounds within half an hour",
        "none",
        "rounds",
        "increase(fednot_recovery_rounds_total{$here}[30m])",
        "0 while a job is recovering: FednotRecoveryStuck.",
    ),
    Panel(
        "Verdicts within a day",
        "none",
        "{{kind}} {{verdict}}",
        "increase(fednot_verification_verdicts_total{$here}[1d])",
        "On attempts; a deep assurance makes another one after a fail.",
    ),
    Panel(
        "Completed with a failed verdict",
        "none",
        "{{kind}}",
        "fednot_deletions_that_failed_verification{$here}",
        "All that there ever were. FednotVerificationFailed tells of a new one.",
        "red",
        1,
    ),
    Panel(
        "Generation",
        "none",
        "negations",
        "fednot_model_generation{$here}",
        "How often unlearning changed the model.",
    ),
    Panel(
        "Released version",
        "none",
        "version",
        "fednot_model_released_version{$here}",
        "0 while none may be downloaded.",
    ),
    ACCURACY,
)
DASHBOARDS: Final = {"overview": OVERVIEW, "deletions": DELETIONS}


def queries() -> Iterator[tuple[str, str]]:
    """Each panel's name, as dashboard and title, and its PromQL, which asks of every server."""
    for name, panels in DASHBOARDS.items():
        for panel in panels:
            yield f"{name}: {panel.title}", panel.query.replace("$here", 'job="fednot-server"')


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
        .with_variable(_sources())
        .with_variable(_servers())
        .link(_links())
    )
    for panel in _placed(DASHBOARDS[name]):
        board = board.with_panel(panel)
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _sources() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def _servers() -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable("instance")
        .label("Server")
        .datasource(SOURCE)
        .query(f"label_values({SERVERS}, instance)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )


def _links() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink("fednot").type(DashboardLinkType.DASHBOARDS)
    return link.tags(["fednot"]).keep_time(True).include_vars(True)


def _placed(panels: Sequence[Panel]) -> Iterator[timeseries.Panel]:
    for index, panel in enumerate(panels):
        row, column = divmod(index, PER_ROW)
        yield _limited(
            timeseries.Panel()
            .id(index + 1)
            .title(panel.title)
            .description(panel.meaning)
            .unit(panel.unit)
            .datasource(SOURCE)
            .legend(_legend())
            .grid_pos(GridPos(h=HEIGHT, w=WIDTH, x=column * WIDTH, y=row * HEIGHT))
            .with_target(
                prometheus.Dataquery()
                .expr(panel.query.replace("$here", HERE))
                .legend_format(panel.legend)
                .ref_id("A")
                .range()
            ),
            panel,
        )


def _limited(drawn: timeseries.Panel, panel: Panel) -> timeseries.Panel:
    """The panel with a line where its value turns, and the bad side of it in red."""
    if not panel.turns:
        return drawn
    before = "green" if panel.turns == "red" else "red"
    steps = [Threshold(color=before), Threshold(value=panel.at, color=panel.turns)]
    style = common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED_AND_AREA)
    limits = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
    return drawn.thresholds(limits).thresholds_style(style)


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
