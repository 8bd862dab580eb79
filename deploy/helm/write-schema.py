"""Writes deploy/helm/fednot/values.schema.json: `make chart-schema`.

What the chart's own values are is told here; the keys of `settings` are those of the two daemons,
less what the chart decides itself and what would be a secret or plaintext in a manifest.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from client.settings import ClientSettings  # noqa: E402
from fednot.settings import Settings  # noqa: E402
from server.settings import ServerSettings  # noqa: E402

TARGET = ROOT / "deploy" / "helm" / "fednot" / "values.schema.json"
DECIDED = {
    "server": {
        *("address", "http_address", "enrolment_address", "data_address", "state_dir", "ledger"),
        *("database", "versions", "identity", "authority", "revocations", "insecure", "task"),
        "task_arg",
    },
    "client": {
        *("name", "server", "http_address", "state_dir", "identity", "insecure", "task"),
        "task_arg",
    },
}
"""Settings that have values of their own in the chart, or none."""
Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "integer", "minimum": 1}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
LIST: Schema = {"type": "array"}
OBJECTS: Schema = {"type": "array", "items": {"type": "object"}}
TEXTS: Schema = {"type": "array", "items": TEXT}
MAP: Schema = {"type": "object"}
LABELS: Schema = {"type": "object", "additionalProperties": TEXT}
ARGUMENTS: Schema = {
    "type": "object",
    "additionalProperties": {"type": ["string", "number", "boolean"], "pattern": r"^\S*$"},
}
QUANTITY: Schema = {"type": "string", "pattern": r"^[0-9.]+([EPTGMk]i?)?$"}
NO_QUANTITY: Schema = {"type": "string", "pattern": r"^([0-9.]+([EPTGMk]i?)?)?$"}
DURATION: Schema = {"type": "string", "pattern": r"^([0-9]+[hms])+$"}
NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$"}
HOST: Schema = {"type": "string", "pattern": r"^([A-Za-z0-9][A-Za-z0-9.-]*)?$"}


def closed(**properties: Schema) -> Schema:
    """An object of these properties and no other."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def one_of(*values: str) -> Schema:
    """One of some texts."""
    return {"type": "string", "enum": list(values)}


def settings_of(kind: type[Settings], role: str) -> Schema:
    """The settings of a daemon that values may hold, by the names of their flags."""
    value = {"type": ["string", "number", "boolean", "array"]}
    rows = {
        name.replace("_", "-"): value | {"description": field.description or ""}
        for name, field in kind.model_fields.items()
        if name not in DECIDED[role]
    }
    return closed(**rows)


def volume() -> Schema:
    """A claim that the chart makes."""
    return closed(size=QUANTITY, storageClass=TEXT, accessModes=TEXTS)


def claim() -> Schema:
    """A claim that may be there already."""
    return closed(**volume()["properties"], existingClaim=TEXT)


def pod() -> Schema:
    """What server and clients have alike."""
    refused = r"^(FEDNOT_|AWS_SECRET|AWS_ACCESS|AWS_SESSION|PGPASS)"
    variable = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string", "not": {"pattern": refused}}},
        "if": {"properties": {"name": {"pattern": r"^OTEL_EXPORTER_OTLP_(TRACES_)?HEADERS$"}}},
        "then": {"required": ["valueFrom"], "not": {"required": ["value"]}},
    }
    return closed(
        image=closed(
            repository=TEXT,
            tag=TEXT,
            digest={"type": "string", "pattern": r"^(sha256:[0-9a-f]{64})?$"},
            pullPolicy=one_of("Always", "IfNotPresent", "Never"),
        ),
        taskArguments=ARGUMENTS,
        persistence=claim(),
        identitySecret=TEXT,
        probes=closed(startupFailures=NUMBER, livenessFailures=NUMBER),
        resources=MAP,
        initResources=MAP,
        temporarySize=QUANTITY,
        terminationGracePeriodSeconds=NUMBER,
        podLabels=LABELS,
        podAnnotations=LABELS,
        nodeSelector=LABELS,
        tolerations=OBJECTS,
        affinity=MAP,
        topologySpreadConstraints=OBJECTS,
        priorityClassName=TEXT,
        extraVolumes=OBJECTS,
        extraVolumeMounts=OBJECTS,
        extraEnv={"type": "array", "items": variable},
    )


def server() -> Schema:
    """`server`."""
    return closed(
        **pod()["properties"],
        enabled=FLAG,
        settings=settings_of(ServerSettings, "server"),
        enrolment=FLAG,
        dataChannel=FLAG,
        maintenance=FLAG,
        ledger=closed(separateVolume=FLAG, **volume()["properties"]),
        authority=volume(),
        revocations=closed(configMap=TEXT, key=TEXT),
        database=closed(secretName=TEXT, key=TEXT, port=PORT, to=OBJECTS),
        s3=closed(
            bucket=TEXT,
            prefix={"type": "string", "minLength": 1},
            region=TEXT,
            endpointUrl={"type": "string", "pattern": r"^(https?://[^@\s]+)?$"},
            port=PORT,
            to=OBJECTS,
            credentialsSecret=TEXT,
            credentialsKey=TEXT,
            checksumsWhenRequired=FLAG,
        ),
        service=closed(
            type=one_of("ClusterIP", "LoadBalancer", "NodePort"),
            annotations=LABELS,
            loadBalancerSourceRanges=TEXTS,
            externalTrafficPolicy=one_of("", "Cluster", "Local"),
        ),
        podDisruptionBudget=closed(enabled=FLAG),
    )


def one_client() -> Schema:
    """One of `clients`: what it changes of `client`."""
    return closed(
        **pod()["properties"],
        settings=settings_of(ClientSettings, "client"),
        tokenSecret=TEXT,
        gpu=closed(enabled=FLAG, count=NUMBER, resource=TEXT, runtimeClassName=TEXT),
        sharedMemorySize=NO_QUANTITY,
    )


def client() -> Schema:
    """`client`, which all have."""
    share = {"anyOf": [NUMBER, {"type": "string", "pattern": r"^[0-9]+%$"}]}
    return closed(
        **one_client()["properties"],
        server=HOST,
        podDisruptionBudget=closed(enabled=FLAG, maxUnavailable=share),
    )


def certificates() -> Schema:
    """`certificates`."""
    person = closed(role=one_of("operator", "officer", "auditor"), name=NAME)
    return closed(
        mode=one_of("authority", "certManager", "secret"),
        domain={"type": "string", "pattern": r"^[a-z0-9][a-z0-9._-]{0,62}$"},
        hosts={"type": "array", "items": {"type": "string", "pattern": r"^[A-Za-z0-9*_.-]+$"}},
        certManager=closed(
            issuerRef=closed(name=TEXT, kind=one_of("Issuer", "ClusterIssuer"), group=TEXT),
            duration=DURATION,
            renewBefore=DURATION,
            people={"type": "array", "items": person | {"required": ["role", "name"]}},
        ),
    )


def values() -> Schema:
    """The whole of the values."""
    peers = {"from": OBJECTS, "egress": OBJECTS}
    clients: Schema = {
        "type": "object",
        "propertyNames": {"pattern": NAME["pattern"]},
        "additionalProperties": {"anyOf": [{"type": "null"}, one_client()]},
    }
    return closed(
        nameOverride=TEXT,
        fullnameOverride=TEXT,
        clusterDomain=TEXT,
        imagePullSecrets=OBJECTS,
        task=closed(
            reference={"type": "string", "minLength": 1},
            arguments=ARGUMENTS,
            files=LABELS,
            existingConfigMap=TEXT,
        ),
        certificates=certificates(),
        serviceAccount=closed(create=FLAG, name=TEXT, annotations=LABELS),
        server=server(),
        client=client(),
        clients=clients,
        networkPolicy=closed(
            enabled=FLAG,
            server=closed(**peers),
            client=closed(to=OBJECTS, egress=OBJECTS),
            monitoring=closed(**{"from": OBJECTS}),
        ),
        monitoring=closed(
            serviceMonitor=closed(enabled=FLAG, interval=DURATION, labels=LABELS),
            prometheusRule=closed(enabled=FLAG, labels=LABELS),
        ),
    ) | {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart fednot",
    }


def written() -> str:
    """The file's text."""
    whole = values()
    whole["properties"]["global"] = MAP
    return json.dumps(whole, indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(written(), encoding="utf-8")
