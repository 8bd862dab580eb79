"""Imports what server and client import of other packages, so that Python keeps its bytecode.

The images hold no other bytecode: what is hardly ever imported is compiled when it is. Names of
modules behind the file are imported, too.
"""

import importlib
import sys

import torch

MODULES = (
    "alembic.config alembic.runtime.migration alembic.script cryptography.x509 grpc.aio "
    "grpc_health.v1.health grpc_reflection.v1alpha.reflection grpc_status.rpc_status h11 jinja2 "
    "google.protobuf.json_format google.rpc.error_details_pb2 joserfc.jwk joserfc.jws numpy "
    "opentelemetry.exporter.otlp.proto.grpc.trace_exporter opentelemetry.sdk.trace.export "
    "PIL.Image prometheus_client pydantic rich.live rich.progress_bar rich.spinner rich.table "
    "safetensors.torch sklearn.linear_model sklearn.model_selection sqlalchemy.dialects.sqlite "
    "sqlite3 starlette.applications starlette.responses starlette.routing structlog torch.export "
    "shtab torch.distributed torch.utils.data typer uvicorn xxhash"
)

for name in [*MODULES.split(), *sys.argv[1:]]:
    importlib.import_module(name)

layer = torch.nn.Linear(2, 2)
torch.export.export(layer, (torch.zeros(1, 2),))
optimiser = torch.optim.SGD(layer.parameters(), momentum=0.9)
layer(torch.zeros(1, 2)).sum().backward()
optimiser.step()
