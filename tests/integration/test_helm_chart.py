"""The Helm chart for three sets of values: each document is valid, and its promises are kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from support.chart import (
    CHART,
    ROOT,
    Document,
    containers,
    environment,
    matches,
    of_kind,
    owners,
    pods,
    rendered,
    run_helm,
)
from support.custom_resources import SCHEMAS

from client.settings import ClientSettings
from fednot import settings
from fednot.identity.authority import Authority
from fednot.identity.certificates import hosts_of
from fednot.identity.folder import read_credentials
from server.settings import ServerSettings

pytestmark = pytest.mark.long

SETS = sorted((CHART / "ci").glob("*.yaml"))
RULES = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
KUBERNETES = ("1.27", "1.37")
SECRET_WORDS = ("password", "secret_access_key", "postgresql", "private key")


@pytest.fixture(params=SETS, ids=lambda path: path.stem)
def values(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def documents(values: Path) -> list[Document]:
    return rendered("-f", values)


def test_there_are_three_sets_and_rules() -> None:
    assert [path.stem for path in SETS] == ["gpu-clients", "production", "small"]
    assert RULES


def test_it_lints(values: Path) -> None:
    done = run_helm("lint", "--strict", CHART, "-f", values)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_document_is_valid(documents: list[Document]) -> None:
    """For the oldest Kubernetes that the chart takes and the newest, and by our schemas."""
    for each in documents:
        if each["kind"] in SCHEMAS:
            jsonschema.validate(each, SCHEMAS[each["kind"]])
            continue
        for version in KUBERNETES:
            kubernetes_validate.validate(each, version, strict=True)
    names = [(each["kind"], each["metadata"]["name"]) for each in documents]
    assert len(set(names)) == len(names)


def test_a_wrong_document_is_seen(documents: list[Document]) -> None:
    wrong = owners(documents)[0]
    wrong["spec"]["template"]["spec"]["readOnlyRootFilesystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES[1], strict=True)


def test_every_pod_is_confined(documents: list[Document]) -> None:
    found = list(pods(documents))
    assert found
    for _, template in found:
        spec = template["spec"]
        assert spec["enableServiceLinks"] is False
        assert spec["automountServiceAccountToken"] is False
        context = spec["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"], context["fsGroup"]) == (
            *(True, 10001),
            10001,
        )
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(template):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= container["resources"].keys()
            paths = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert {"/tmp"} <= paths, "nothing else can be written to"


def test_every_selector_finds_its_pods(documents: list[Document]) -> None:
    templates = dict(pods(documents))
    every = [template["metadata"]["labels"] for template in templates.values()]
    for each in documents:
        kind, spec = each["kind"], each.get("spec", {})
        if kind in ("StatefulSet", "Deployment"):
            own = spec["selector"]["matchLabels"]
            assert [matches(own, labels) for labels in every].count(True) == 1
            assert matches(own, templates[each["metadata"]["name"]]["metadata"]["labels"])
        elif kind == "Service":
            assert any(matches(spec["selector"], labels) for labels in every)
        elif kind == "NetworkPolicy":
            assert any(matches(spec["podSelector"]["matchLabels"], labels) for labels in every)
        elif kind == "PodDisruptionBudget":
            assert any(matches(spec["selector"]["matchLabels"], labels) for labels in every)
        elif kind == "ServiceMonitor":
            services = of_kind(documents, "Service")
            (one,) = [
                service
                for service in services
                if matches(spec["selector"]["matchLabels"], service["metadata"]["labels"])
            ]
            ports = {port["name"] for port in one["spec"]["ports"]}
            assert {endpoint["port"] for endpoint in spec["endpoints"]} <= ports


def test_every_port_and_claim_is_there(documents: list[Document]) -> None:
    for _, template in pods(documents):
        names = {p["name"] for c in template["spec"]["containers"] for p in c["ports"]}
        for service in of_kind(documents, "Service"):
            if matches(service["spec"]["selector"], template["metadata"]["labels"]):
                assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
        for container in template["spec"]["containers"]:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert container[probe]["httpGet"]["port"] in names
            assert container["readinessProbe"]["httpGet"]["path"] == "/healthz"
    made = {each["metadata"]["name"] for each in of_kind(documents, "PersistentVolumeClaim")}
    for each in of_kind(documents, "PersistentVolumeClaim"):
        assert each["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    for owner in owners(documents):
        template = owner["spec"]["template"]
        given = [v["name"] for v in template["spec"]["volumes"]]
        claims = [v for v in template["spec"]["volumes"] if v["name"] == "state"]
        given += [c["metadata"]["name"] for c in owner["spec"].get("volumeClaimTemplates", [])]
        for container in containers(template):
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted <= set(given)
        for claim in claims:
            chosen = claim["persistentVolumeClaim"]["claimName"]
            assert chosen in made or chosen == "clinic-b-state"


def test_no_plaintext_and_no_secret_in_a_manifest(documents: list[Document]) -> None:
    assert not of_kind(documents, "Secret")
    for _, template in pods(documents):
        for container in containers(template):
            found = environment(container)
            assert not [name for name in found if name.endswith("_INSECURE")]
            for name, value in found.items():
                assert not any(word in value.lower() for word in SECRET_WORDS), name
        for volume in template["spec"]["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o400


def test_the_daemons_take_their_environment(documents: list[Document], tmp_path: Path) -> None:
    """Each has an identity: fednot's own settings refuse anything else but plaintext."""
    url = tmp_path / "url"
    url.write_text("postgresql+psycopg://fednot:hush@db.example.org/fednot\n")
    for _, template in pods(documents):
        (container,) = template["spec"]["containers"]
        found = environment(container)
        if container["name"] == "server":
            if "FEDNOT_SERVER_DATABASE_FILE" in found:
                assert found["FEDNOT_SERVER_DATABASE_FILE"] == "/secrets/database/url"
                found["FEDNOT_SERVER_DATABASE_FILE"] = str(url)
            server = settings.load(
                ServerSettings,
                program="server",
                prefix="FEDNOT_SERVER_",
                arguments=[],
                environment=found,
            )
            assert server.identity_folder is not None
            assert server.ledger_path == Path("/ledger/ledger.jsonl")
        else:
            client = settings.load(
                ClientSettings,
                program="client",
                prefix="FEDNOT_CLIENT_",
                arguments=[],
                environment=found,
            )
            assert client.identity is not None
            assert client.name == template["metadata"]["labels"]["fednot.io/client"]


def test_production_keeps_its_secrets_in_files() -> None:
    documents = rendered("-f", CHART / "ci" / "production.yaml")
    (server,) = [t for name, t in pods(documents) if name.endswith("-server")]
    found = environment(server["spec"]["containers"][0])
    assert found["FEDNOT_SERVER_DATABASE_FILE"] == "/secrets/database/url"
    assert found["AWS_SHARED_CREDENTIALS_FILE"] == "/secrets/s3/credentials"
    assert found["FEDNOT_SERVER_VERSIONS"] == "s3://models/federation-1"
    assert found["FEDNOT_SERVER_CODECS"] == "none bf16"
    assert found["FEDNOT_SERVER_JOB_DEADLINE"] == "2592000"
    secrets = {v["name"]: v["secret"] for v in server["spec"]["volumes"] if "secret" in v}
    assert secrets["database"]["secretName"] == "fednot-database"
    assert secrets["s3"]["secretName"] == "fednot-s3"
    (task,) = of_kind(documents, "ConfigMap")
    assert "{{ braces }}" in task["data"]["my_task.py"]


def test_gpu_clients_ask_for_theirs_and_dial_out_only() -> None:
    documents = rendered("-f", CHART / "ci" / "gpu-clients.yaml")
    assert not of_kind(documents, "StatefulSet")
    found = dict(pods(documents))
    assert sorted(found) == ["fed-fednot-client-clinic-a", "fed-fednot-client-clinic-b"]
    counts = []
    for template in found.values():
        (container,) = template["spec"]["containers"]
        assert container["image"].endswith("-cuda")
        assert template["spec"]["runtimeClassName"] == "nvidia"
        assert environment(container)["FEDNOT_CLIENT_DEVICE"] == "cuda"
        assert environment(container)["FEDNOT_CLIENT_SERVER"] == "fed.example.org:50051"
        counts.append(container["resources"]["limits"]["nvidia.com/gpu"])
        assert container["resources"]["limits"]["memory"] == "32Gi"
    assert counts == [1, 2]
    (policy,) = of_kind(documents, "NetworkPolicy")
    ports = [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
    assert ports == ["http"], "nobody dials a client but Prometheus"
    assert policy["spec"]["egress"][1]["to"] == [{"ipBlock": {"cidr": "198.51.100.7/32"}}]


def test_the_rules_are_those_of_prometheus() -> None:
    documents = rendered("-f", CHART / "ci" / "production.yaml")
    found = [each["spec"] for each in of_kind(documents, "PrometheusRule")]
    assert found == [yaml.safe_load(path.read_text()) for path in RULES]
    jobs = [
        each["spec"]["endpoints"][0]["relabelings"][0]["replacement"]
        for each in of_kind(documents, "ServiceMonitor")
    ]
    assert sorted(jobs) == ["fednot-client", "fednot-server"]


def test_a_server_is_scraped_under_its_namespace_and_pod() -> None:
    """Two federations in two namespaces have pods of one name, and are told apart in dashboards."""
    documents = rendered("-f", CHART / "ci" / "production.yaml")
    [named] = [
        rule
        for each in of_kind(documents, "ServiceMonitor")
        for rule in each["spec"]["endpoints"][0]["relabelings"]
        if rule.get("targetLabel") == "instance"
    ]
    assert named == {
        "sourceLabels": ["__meta_kubernetes_namespace", "__meta_kubernetes_pod_name"],
        "separator": "/",
        "targetLabel": "instance",
    }


def test_a_packaged_chart_renders_the_same(tmp_path: Path) -> None:
    """Rules and all: a package has files where the tree has a symbolic link."""
    done = run_helm("package", CHART, "-d", tmp_path)
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    flags = ("-f", CHART / "ci" / "production.yaml")
    assert rendered(*flags, chart=package) == rendered(*flags)


@pytest.mark.parametrize(
    "wrong",
    [
        "server.settings.insecure=true",
        "server.settings.database=postgresql://a:b@c/d",
        "server.settings.min-client=2",
        "client.settings.insecure=true",
        "clients.Clinic_A.settings.codec=none",
        "certificates.mode=none",
        "server.extraEnv[0].name=FEDNOT_SERVER_INSECURE",
        "client.extraEnv[0].name=OTEL_EXPORTER_OTLP_HEADERS,client.extraEnv[0].value=key",
        "server.s3.endpointUrl=https://key:secret@s3.example.org",
        "sever.enabled=false",
    ],
)
def test_values_that_must_not_be_are_refused(wrong: str) -> None:
    done = run_helm("template", "fed", CHART, "--set", wrong)
    assert done.returncode != 0
    assert "schema" in done.stderr


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("server.enabled=false,clients.a.tokenSecret=t", "client.server: name the server"),
        ("server.revocations.configMap=r", "server.revocations: an authority"),
        ("server.extraVolumes[0].name=task", "task is a volume of the chart's own"),
        ("server.settings.model=/m,clients.a.tokenSecret=t", "task.reference: the clients need"),
    ],
)
def test_values_that_make_no_sense_together_are_told(flags: str, sentence: str) -> None:
    done = run_helm("template", "fed", CHART, "--set", flags)
    assert done.returncode != 0
    assert sentence in done.stderr


def test_the_key_of_a_collector_comes_from_a_secret() -> None:
    wanted = {"secretKeyRef": {"name": "collector", "key": "headers"}}
    flags = (
        *("server.settings.trace-endpoint=https://otel.example.org:4317",),
        *("server.extraEnv[0].name=OTEL_EXPORTER_OTLP_HEADERS",),
        *("server.extraEnv[0].valueFrom.secretKeyRef.name=collector",),
        *("server.extraEnv[0].valueFrom.secretKeyRef.key=headers",),
    )
    documents = rendered("-f", CHART / "ci" / "small.yaml", "--set", ",".join(flags))
    (server,) = [t for name, t in pods(documents) if name.endswith("-server")]
    found = {each["name"]: each for each in server["spec"]["containers"][0]["env"]}
    assert found["OTEL_EXPORTER_OTLP_HEADERS"]["valueFrom"] == wanted
    endpoint = found["FEDNOT_SERVER_TRACE_ENDPOINT"]["value"]
    assert endpoint == "https://otel.example.org:4317"


def test_revocation_lists_and_maintenance_reach_the_pod() -> None:
    flags = "server.maintenance=true,server.revocations.configMap=r"
    documents = rendered("-f", CHART / "ci" / "production.yaml", "--set", flags)
    (server,) = [t for name, t in pods(documents) if name.endswith("-server")]
    (container,) = server["spec"]["containers"]
    assert container["command"] == ["sleep", "infinity"]
    assert not [probe for probe in container if probe.endswith("Probe")]
    assert environment(container)["FEDNOT_SERVER_REVOCATIONS"] == "/revocations/revoked.pem"


def test_the_init_container_makes_an_authority_once(tmp_path: Path) -> None:
    documents = rendered("-f", CHART / "ci" / "small.yaml", "--set", "certificates.domain=clinic")
    (server,) = [t for name, t in pods(documents) if name.endswith("-server")]
    (container,) = server["spec"]["initContainers"]
    script = container["args"][0].replace("/authority/", f"{tmp_path}/")
    program = tmp_path / "bin" / "fednot"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nfrom fednot.cli.main import main\nmain()\n", encoding="utf-8"
    )
    program.chmod(0o755)
    path = f"{program.parent}:/usr/bin:/bin"
    made = []
    for _ in range(2):
        subprocess.run(
            [*container["command"], script],
            check=True,
            timeout=60,
            env={"PATH": path, "PYTHONPATH": str(ROOT), **environment(container)},
        )
        found = Authority.open(tmp_path / "authority")
        made.append((found.domain, found.trust_pem))
    assert made[0] == made[1]
    assert made[0][0] == "clinic"
    hosts = hosts_of(read_credentials(found.server_folder).certificate)
    assert {"localhost", "127.0.0.1", "fed-fednot-server.federation.svc"} <= set(hosts)
