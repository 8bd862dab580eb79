"""A PostgreSQL of Debian's package for tests, on loopback, in a folder that goes with it."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Final

import psycopg
import pytest
from support.ports import free_port

USER: Final = "fednot"
START: Final = 60.0
_SETTINGS: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "max_connections": "50",
    "shared_buffers": "16MB",
    "unix_socket_directories": "",
}


@cache
def programs() -> Path | None:
    """Where the newest PostgreSQL that is installed has its programs; None if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[4]))
    return found[-1].parent if found else None


def need_postgres() -> None:
    """Skips the test on a machine without PostgreSQL."""
    if programs() is None:
        pytest.skip("no PostgreSQL is installed (apt-get install postgresql)")


class Postgres:
    """One server with as many databases as tests ask for. It ends with this process."""

    def __init__(self) -> None:
        found = programs()
        assert found is not None, "ask need_postgres first"
        self._programs = found
        self._names = itertools.count(1)
        self.folder = Path(tempfile.mkdtemp(prefix="fednot-postgres-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            os.chown(self.folder, *self._owner())
        how = ("-U", USER, "--auth=trust", "--no-sync", "-E", "UTF8")
        self._call("initdb", "-D", self._data, *how)

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    def start(self) -> None:
        """Starts it and waits until it answers."""
        settings = {**_SETTINGS, "port": str(self.port)}
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", self._data, *flags), stdout=log, stderr=log
            )
        until = time.monotonic() + START
        while time.monotonic() < until and self._process.poll() is None:
            try:
                psycopg.connect(self._dsn("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"PostgreSQL did not start: {(self.folder / 'log').read_text()}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ends it; by SIGINT it closes what is open, by SIGQUIT it dies at once."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(30)

    def remove(self) -> None:
        """Ends it and removes its folder."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_database(self, template: str = "template0") -> str:
        """Makes a database, as a copy of another one that nobody uses, and returns its name."""
        name = f"state_{next(self._names)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def run(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Runs one statement outside of the server under test, and returns its rows."""
        with psycopg.connect(self._dsn(database), autocommit=True) as connection:
            done = connection.execute(statement.encode())
            return done.fetchall() if done.description else []

    def url(self, database: str) -> str:
        """What `--database` takes."""
        return f"postgresql+psycopg://{USER}:secret@127.0.0.1:{self.port}/{database}"

    def _dsn(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user={USER} dbname={database}"

    def _owner(self) -> tuple[int, int]:
        """PostgreSQL refuses to run as root."""
        for name in ("postgres", "nobody"):
            try:
                found = pwd.getpwnam(name)
            except KeyError:
                continue
            return found.pw_uid, found.pw_gid
        raise AssertionError("no user is there to run PostgreSQL as")

    def _command(self, program: str, *arguments: str) -> list[str]:
        as_owner: list[str] = []
        if os.geteuid() == 0:
            user, group = self._owner()
            as_owner = [f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        ends_with_us = ["setpriv", "--pdeathsig=INT", *as_owner, "--"]
        return [*ends_with_us, str(self._programs / program), *arguments]

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            self._command(program, *arguments), capture_output=True, text=True, cwd=self.folder
        )
        assert done.returncode == 0, done.stderr
