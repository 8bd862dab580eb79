"""JSON schemas of the custom resources that the chart makes, as far as it uses them.

Written by the API references of cert-manager (cert-manager.io/v1) and the Prometheus operator
(monitoring.coreos.com/v1). A field that is not here is one that the chart must not begin to use
without a look into those.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
TEXTS: Schema = {"type": "array", "items": TEXT, "minItems": 1}
MAP: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
DURATION: Schema = {"type": "string", "pattern": r"^([0-9]+(ms|[smhdwy]))+$"}
USAGES = ["digital signature", "cert sign", "crl sign", "server auth", "client auth"]


def closed(required: str, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required.split(),
        "properties": properties,
    }


def document(version: str, kind: str, spec: Schema) -> Schema:
    metadata = closed("name labels", name=TEXT, labels=MAP, annotations=MAP)
    return closed(
        "apiVersion kind metadata spec",
        apiVersion={"const": version},
        kind={"const": kind},
        metadata=metadata,
        spec=spec,
    )


RULE: Schema = {
    "anyOf": [
        closed("alert expr", alert=TEXT, expr=TEXT, labels=MAP, annotations=MAP)
        | {"additionalProperties": True},
        closed("record expr", record=TEXT, expr=TEXT, labels=MAP),
    ],
    "properties": {"for": DURATION, "keep_firing_for": DURATION, "expr": TEXT},
    "propertyNames": {
        "enum": ["alert", "record", "expr", "for", "keep_firing_for", "labels", "annotations"],
    },
}
GROUP = closed(
    "name rules",
    name=TEXT,
    interval=DURATION,
    rules={"type": "array", "items": RULE, "minItems": 1},
)
RELABELLING = closed(
    "",
    sourceLabels=TEXTS,
    separator={"type": "string"},
    targetLabel=TEXT,
    replacement={"type": "string"},
    regex=TEXT,
    action={"enum": ["replace", "labeldrop", "keep", "drop"]},
)
ENDPOINT = closed(
    "port",
    port=TEXT,
    path=TEXT,
    interval=DURATION,
    relabelings={"type": "array", "items": RELABELLING},
)
ISSUER = closed(
    "name",
    name=TEXT,
    kind={"enum": ["Issuer", "ClusterIssuer"]},
    group={"const": "cert-manager.io"},
)
CERTIFICATE = closed(
    "secretName issuerRef",
    secretName=TEXT,
    issuerRef=ISSUER,
    commonName=TEXT | {"maxLength": 64},
    isCA={"type": "boolean"},
    uris=TEXTS,
    dnsNames=TEXTS,
    ipAddresses=TEXTS,
    duration=DURATION,
    renewBefore=DURATION,
    usages={"type": "array", "items": {"enum": USAGES}},
    privateKey=closed(
        "algorithm size",
        algorithm={"enum": ["ECDSA", "RSA", "Ed25519"]},
        size={"type": "integer"},
        encoding={"enum": ["PKCS1", "PKCS8"]},
        rotationPolicy={"enum": ["Always", "Never"]},
    ),
)
SCHEMAS: dict[str, Schema] = {
    "Certificate": document("cert-manager.io/v1", "Certificate", CERTIFICATE),
    "Issuer": document(
        "cert-manager.io/v1",
        "Issuer",
        closed("", selfSigned=closed(""), ca=closed("secretName", secretName=TEXT))
        | {"minProperties": 1, "maxProperties": 1},
    ),
    "PrometheusRule": document(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        closed("groups", groups={"type": "array", "items": GROUP, "minItems": 1}),
    ),
    "ServiceMonitor": document(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        closed(
            "selector endpoints",
            selector=closed("matchLabels", matchLabels=MAP),
            namespaceSelector=closed("matchNames", matchNames=TEXTS),
            endpoints={"type": "array", "items": ENDPOINT, "minItems": 1},
        ),
    ),
}
