"""The Dockerfiles, the compose project and Prometheus' targets agree with each other."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.settings import ClientSettings
from fednot import settings
from server.settings import ServerSettings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
CLIENTS = sorted(name for name in SERVICES if name.startswith("client-"))
ONCE = {"certificates", "trainer", "operator", "officer"}
HOLDERS = {
    "authority": {"server"},
    "operator": {"operator", "trainer"},
    "officer": {"officer"},
    **{f"{name}-state": {name} for name in CLIENTS},
}
APART: dict[str, dict[str, Any]] = {
    role: yaml.safe_load((ROOT / "deploy" / "compose" / f"{role}.yml").read_text())["services"]
    for role in ("server", "client")
}
VARIABLES = {"FEDNOT_HOST": "fed.example.org", "FEDNOT_TASK": "my_task.py:MyTask"}
ROLES = {"server": ("FEDNOT_SERVER_", ServerSettings), "client": ("FEDNOT_CLIENT_", ClientSettings)}


def dockerfile(role: str) -> str:
    return (ROOT / "deploy" / f"{role}.Dockerfile").read_text()


def image_environment(role: str) -> dict[str, str]:
    return dict(re.findall(rf"\b(FEDNOT_{role.upper()}_\w+)=(\S+)", dockerfile(role)))


def load(service: str) -> Any:
    role = service.split("-")[0]
    prefix, kind = ROLES[role]
    environment = {**image_environment(role), **SERVICES[service]["environment"]}
    return settings.load(kind, program=role, prefix=prefix, arguments=[], environment=environment)


def test_the_server_starts_from_the_compose_environment() -> None:
    server = load("server")
    assert server.address == "0.0.0.0:50051"
    assert server.http_address == "0.0.0.0:9464"
    assert (server.insecure, server.authority) == (False, Path("/authority"))
    assert server.enrolment_address == "0.0.0.0:50052"
    assert server.data_address == "0.0.0.0:50053"
    assert server.min_clients == len(CLIENTS) - 1, "else nothing recovers after a deletion"
    assert server.ledger == Path("/ledger/ledger.jsonl"), "on another volume than the state"


def test_the_clients_share_the_data_and_nothing_else() -> None:
    loaded = [load(name) for name in CLIENTS]
    assert [client.name for client in loaded] == CLIENTS
    assert {client.identity for client in loaded} == {Path("/var/lib/fednot/identity")}
    assert [client.task_arg for client in loaded] == [
        (f"shard={i}/{len(CLIENTS)}",) for i in range(len(CLIENTS))
    ]
    assert {client.server for client in loaded} == {"server:50051"}
    assert {client.task for client in loaded} == {load("server").task}


def test_an_environment_variable_that_no_setting_has_is_refused() -> None:
    with pytest.raises(settings.SettingsError, match="FEDNOT_SERVER_ADRESS"):
        settings.load(
            ServerSettings,
            program="server",
            prefix="FEDNOT_SERVER_",
            arguments=[],
            environment={"FEDNOT_SERVER_ADRESS": "0.0.0.0:50051"},
        )


def test_published_ports_stay_on_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert sorted(port.rsplit(":", 1)[1] for port in ports) == [
        "3000",
        "50051",
        "50052",
        "50053",
        "9090",
        "9093",
        "9464",
    ]
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_confined_and_restarted(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")
    assert service.get("cap_add", []) == (
        ["CHOWN", "DAC_OVERRIDE"] if name == "certificates" else []
    )


def test_the_service_that_makes_certificates_has_no_network() -> None:
    assert SERVICES["certificates"]["network_mode"] == "none"
    assert SERVICES["server"]["depends_on"] == {
        "certificates": {"condition": "service_completed_successfully"}
    }


@pytest.mark.parametrize("name", SERVICES)
def test_only_its_holder_mounts_an_identity(name: str) -> None:
    """`certificates` makes them all; a client's lies in its state, the others' in their own."""
    mounted = {volume.split(":")[0] for volume in SERVICES[name]["volumes"]} & HOLDERS.keys()
    allowed = {volume for volume, holders in HOLDERS.items() if name in holders}
    assert mounted == (set(HOLDERS) if name == "certificates" else allowed)


def test_each_state_has_its_own_volume() -> None:
    mounted = [
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service["volumes"]
        if not volume.startswith("./")
    ]
    assert set(mounted) == set(COMPOSE["volumes"])
    assert sorted(volume for volume in mounted if volume not in HOLDERS) == [
        "alertmanager-data",
        "grafana-data",
        "ledger",
        "prometheus-data",
        "server-state",
    ]


def test_prometheus_scrapes_the_server_and_every_client() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    targets = {
        job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]
    }
    assert targets == {
        "fednot-server": ["server:9464"],
        "fednot-client": [f"{name}:9465" for name in CLIENTS],
    }


def test_who_watches_comes_with_a_profile_and_all_else_but_commands_without() -> None:
    profiles = {name: service.get("profiles", []) for name, service in SERVICES.items()}
    watching = {"prometheus", "alertmanager", "grafana"}
    assert {name for name in profiles if profiles[name] == ["monitoring"]} == watching
    assert {name for name in profiles if profiles[name] == ["commands"]} == {"operator", "officer"}
    assert {name for name in profiles if not profiles[name]} == (
        {"certificates", "server", "trainer", *CLIENTS}
    )


def filled(value: object) -> str:
    """What compose makes of a value, with VARIABLES and defaults."""

    def chosen(match: re.Match[str]) -> str:
        return VARIABLES.get(match[1], match[2] or "")

    return re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", chosen, str(value))


@pytest.mark.parametrize("role", ROLES)
def test_machines_apart_start_from_their_environment(role: str) -> None:
    prefix, kind = ROLES[role]
    given = {name: filled(v) for name, v in APART[role][role]["environment"].items()}
    own = {name: value for name, value in given.items() if name.startswith(prefix)}
    environment = {**image_environment(role), **own}
    found: Any = settings.load(
        kind, program=role, prefix=prefix, arguments=[], environment=environment
    )
    assert found.task == "my_task.py:MyTask"
    if role == "client":
        assert found.server == "fed.example.org:50051"
        assert found.http_address == "127.0.0.1:9465", "nobody reaches it from outside"
    else:
        assert found.ledger == Path("/ledger/ledger.jsonl")
        assert found.data_address == "0.0.0.0:50053"


def test_a_machine_of_a_client_publishes_nothing_and_the_servers_what_clients_dial() -> None:
    assert all("ports" not in service for service in APART["client"].values())
    ports = [filled(port) for port in APART["server"]["server"]["ports"]]
    assert ports == ["50051:50051", "50052:50052", "50053:50053", "127.0.0.1:9464:9464"]
    assert [name for name, each in APART["server"].items() if "ports" in each] == ["server"]


@pytest.mark.parametrize(
    "service", [each for services in APART.values() for each in services.values()]
)
def test_services_of_machines_apart_are_confined(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("role", ROLES)
def test_images_run_as_a_fixed_user_and_check_their_health(role: str) -> None:
    text = dockerfile(role)
    assert "USER 10001:10001" in text
    assert re.search(r"HEALTHCHECK .*\\\n.*healthcheck\.py", text)
    assert "VOLUME /var/lib/fednot" in text
    assert "ARG TORCH=cpu" in text


def test_both_images_share_the_layers_of_their_dependencies() -> None:
    def shared(role: str) -> str:
        return dockerfile(role).partition("FROM ")[2].partition("WORKDIR /app")[0]

    assert shared("server") == shared("client")
    assert "install-torch.sh" in shared("server")


def test_a_changed_source_reinstalls_no_dependency() -> None:
    before_source = dockerfile("server").partition("COPY fednot")[0]
    assert before_source.index("install-torch.sh") < before_source.index("requirements.txt")
    assert "-r requirements.txt" in before_source


def test_the_image_installs_the_dependencies_of_the_package() -> None:
    script = ROOT / "deploy" / "list-dependencies.py"
    done = subprocess.run(
        [sys.executable, script, ROOT / "pyproject.toml"],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert done.stdout.splitlines() == table["project"]["dependencies"]


@pytest.mark.parametrize("role", ROLES)
def test_the_image_can_trace(role: str) -> None:
    assert "list-dependencies.py pyproject.toml tracing >" in dockerfile(role)


TRACED = [
    *((SERVICES[name], name.split("-")[0]) for name in ("server", *CLIENTS)),
    *((SERVICES[name], "") for name in ("trainer", "operator", "officer")),
    (APART["server"]["server"], "server"),
    (APART["client"]["client"], "client"),
    *((APART["server"][name], "") for name in ("operator", "officer")),
    (APART["client"]["client"], ""),
]


@pytest.mark.parametrize(("service", "role"), TRACED)
def test_one_variable_of_the_host_turns_traces_on_everywhere(
    service: dict[str, Any], role: str
) -> None:
    """By that of the process, and by that of `fednot` where people run it."""
    name = f"FEDNOT_{role.upper()}_TRACE_ENDPOINT".replace("__", "_")
    assert service["environment"][name] == "${FEDNOT_TRACE_ENDPOINT:-}"


@pytest.mark.parametrize("name", ["operator", "officer"])
def test_a_command_on_a_machine_apart_waits_until_the_server_serves(name: str) -> None:
    """Right after `up --detach`, which waits for nothing there."""
    assert APART["server"][name]["depends_on"] == {"server": {"condition": "service_healthy"}}


@pytest.mark.parametrize("role", ROLES)
def test_a_mistyped_folder_of_the_host_is_an_error(role: str) -> None:
    """Docker would make it, empty and root's."""
    mounts = {
        mount["target"]: mount for mount in APART[role][role]["volumes"] if isinstance(mount, dict)
    }
    assert set(mounts) == ({"/task"} if role == "server" else {"/task", "/data"})
    for mount in mounts.values():
        assert (mount["type"], mount["read_only"]) == ("bind", True)
        assert mount["bind"] == {"create_host_path": False}
        default = filled(mount["source"])
        assert (ROOT / "deploy" / "compose" / default / ".gitkeep").exists()
