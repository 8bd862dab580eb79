"""The verbs `model pull` and `model init`."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fednot import sentences
from fednot.cli import options
from fednot.cli.documents import document
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import local
from fednot.cli.output import Output
from fednot.cli.session import Session, local_verb, verb

if TYPE_CHECKING:
    from fednot.cli.initial_model import InitialModel

app = typer.Typer(no_args_is_help=True, help="Fetch a released model, or make an initial one.")

VersionNumber = Annotated[
    int, typer.Option(min=0, help="The version.", show_default="the one released now")
]
TaskPlace = Annotated[
    str, typer.Option("--task", metavar="FILE.py:Class", help="The Task that builds the model.")
]
TaskArguments = Annotated[
    list[str],
    typer.Option(
        "--task-arg", metavar="KEY=VALUE", help="An argument of the Task; may be given again."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seeds the fresh weights.")]


@app.command()
@verb
def pull(
    session: Session,
    output: options.Target,
    version: VersionNumber = 0,
    force: options.Force = False,
    wait_timeout: options.WaitTimeout = options.DEFAULT_WAIT,
) -> ExitCode:
    """Fetch a released version as a safetensors file, and check it."""
    from fednot.cli.pulling import pull_version

    options.writable(output, force=force)
    with _placed(output, force=force) as part:
        pulled = pull_version(session, version, part, wait_timeout)
    found = pulled.version
    if session.output.json:
        session.output.document(
            {
                "version": document(found),
                "file": str(output),
                "num_bytes": pulled.num_bytes,
                "xxh3_128": pulled.checksum,
            }
        )
        return ExitCode.DONE
    text = f"version {found.number}, {sentences.size(pulled.num_bytes)}, sha256 {found.sha256}"
    session.output.line(f"{text}, written to {output}")
    return ExitCode.DONE


@app.command()
@local_verb
def init(
    output: Output,
    task: TaskPlace,
    target: options.Target,
    task_arguments: TaskArguments = [],  # noqa: B006
    seed: Seed = 0,
    force: options.Force = False,
) -> ExitCode:
    """Build a Task's initial model and write it as a model file."""
    from fednot.cli.initial_model import build

    options.writable(target, force=force)
    built = build(task, task_arguments, seed)
    with _placed(target, force=force) as part:
        part.write_bytes(built.payload)
    _report(output, built, target)
    return ExitCode.DONE


def _report(output: Output, built: InitialModel, target: Path) -> None:
    layers, tensors = built.layers, len(built.manifest.tensors)
    if output.json:
        output.document(
            {
                "file": str(target),
                "num_bytes": len(built.payload),
                "manifest_digest": built.manifest.digest,
                "num_tensors": tensors,
                "first_layers": list(layers.first),
                "layers_traced": layers.traced,
                "warning": layers.warning,
            }
        )
        return
    if layers.warning:
        output.note(f"warning: {layers.warning}")
    text = f"{tensors} tensors, first layer {', '.join(layers.first) or 'unknown'}"
    output.line(f"{text}, {sentences.size(len(built.payload))}, written to {target}")


@contextmanager
def _placed(path: Path, *, force: bool) -> Iterator[Path]:
    """A new file beside `path` that takes its place at the end, and goes if something fails."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.touch(exist_ok=False)
        yield part
        options.writable(path, force=force)
        part.replace(path)
    except OSError as error:
        raise local(f"{path} cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)
