"""The command line of `fednot preflight`, and which checks it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from fednot.cli import options, panels
from fednot.cli.credentials import check_address, check_choice
from fednot.cli.exit_codes import ExitCode
from fednot.cli.output import Output
from fednot.cli.preflight import ports, served, software, storage
from fednot.cli.preflight.check import Check, Step, made
from fednot.cli.preflight.network import Network
from fednot.cli.session import local_verb

_NAME_WIDTH: Final = 11
_MACHINE: Final = "This machine"

app = typer.Typer()


class Daemon(StrEnum):
    """What a machine is to run."""

    SERVER = "server"
    CLIENT = "client"


_STATE: Final = {Daemon.SERVER: Path(".fednot-server"), Daemon.CLIENT: Path(".fednot-client")}
_PORTS: Final = {
    Daemon.SERVER: ("127.0.0.1:50051", "127.0.0.1:9464"),
    Daemon.CLIENT: ("127.0.0.1:9465",),
}

Server = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        envvar="FEDNOT_SERVER",
        help="Where the server listens.",
        show_default=f"{options.SERVER_DEFAULT} with --identity or --insecure",
        rich_help_panel="Connection and output",
    ),
]
For = Annotated[
    Daemon | None,
    typer.Option(
        "--for",
        help="What this machine is to run: checks its Python, torch, device, state directory and "
        "ports too.",
        show_default="neither",
        rich_help_panel=_MACHINE,
    ),
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="The state directory: its rights, and the room on its disk.",
        show_default="with --for that of the daemon",
        rich_help_panel=_MACHINE,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="The device to train on: auto, cpu, cuda or cuda:N.",
        show_default="auto for a client",
        rich_help_panel=_MACHINE,
    ),
]
TaskPlace = Annotated[
    str,
    typer.Option(
        metavar="FILE.py:Class",
        help="The Task: its code is run to load it.",
        show_default="none",
        rich_help_panel=_MACHINE,
    ),
]
TaskArguments = Annotated[
    list[str],
    typer.Option(
        "--task-arg",
        metavar="KEY=VALUE",
        help="An argument of the Task; may be given more than once.",
        show_default=False,
        rich_help_panel=_MACHINE,
    ),
]
Listen = Annotated[
    list[str],
    typer.Option(
        "--listen",
        metavar="HOST:PORT",
        help="What the daemon is to listen on, which must be free; may be given more than once.",
        show_default="with --for the default ports of the daemon",
        rich_help_panel=_MACHINE,
    ),
]


@app.command(rich_help_panel=panels.FIRST_STEPS)
@local_verb
def preflight(
    output: Output,
    for_: For = None,
    state_dir: StateDir = None,
    device: Device = "",
    task: TaskPlace = "",
    task_arg: TaskArguments = [],  # noqa: B006
    listen: Listen = [],  # noqa: B006
    server: Server = None,
    identity: options.Identity = None,
    insecure: options.Insecure = False,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
) -> ExitCode:
    """Check this machine, identity, network, TLS, clocks and rights before the first run."""
    ports.check_places(listen)
    serves = for_ is Daemon.SERVER and server is None and not insecure
    network = None
    if not serves and (server is not None or identity is not None or insecure):
        network = _network(
            server or options.SERVER_DEFAULT,
            identity,
            insecure=insecure,
            timeout=timeout,
            output=output,
        )
    asked = for_ is not None or state_dir is not None or bool(device or task or listen)
    steps: list[Step] = []
    if asked or network is None:
        steps += _machine(for_, state_dir, device, (task, task_arg), listen, bare=not asked)
    if serves and identity is not None:
        steps += served.steps(identity)
    if network is not None:
        steps += network.steps()
    return _told(output, made(steps), network)


def _network(
    server: str, identity: Path | None, *, insecure: bool, timeout: float, output: Output
) -> Network:
    check_address(server)
    if identity is not None or insecure:
        check_choice(server, identity, insecure=insecure)
    return Network(server, identity, insecure=insecure, timeout=timeout, output=output)


def _machine(
    daemon: Daemon | None,
    state_dir: Path | None,
    device: str,
    task: tuple[str, list[str]],
    listen: list[str],
    *,
    bare: bool,
) -> Iterator[Step]:
    client = daemon is Daemon.CLIENT
    if bare or daemon is not None or device or task[0]:
        chosen = device or ("auto" if client or bare else "")
        yield from software.steps(chosen, *task, trains=daemon is not Daemon.SERVER)
    folder = state_dir or (_STATE[daemon] if daemon is not None else None)
    if folder is not None or bare:
        yield from storage.steps(folder or Path(), is_state=folder is not None)
    yield from ports.steps(listen or (_PORTS[daemon] if daemon is not None else ()))


def _told(output: Output, checks: Iterator[Check], network: Network | None) -> ExitCode:
    found: list[Check] = []
    for check in checks:
        found.append(check)
        if not output.json:
            _print(output, check)
    code = next((check.code for check in found if check.code), ExitCode.DONE)
    if output.json:
        rows = [check.document() for check in found]
        permitted = network.permitted if network else []
        output.document({"checks": rows, "permitted": permitted, "exit_code": int(code)})
    return code


def _print(output: Output, check: Check) -> None:
    output.line(f"{check.outcome:7}  {check.name:{_NAME_WIDTH}} {check.message}")
    if check.remedy:
        output.line(f"{'':7}  {'':{_NAME_WIDTH}} remedy: {check.remedy}")
