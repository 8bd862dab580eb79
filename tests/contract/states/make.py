"""Keeps the state of a small federation for tests of later versions: `make.py TARGET.tar.xz`.

It runs with the code of the checkout that PYTHONPATH names (CHECKOUT:CHECKOUT/tests), which may be
an older one. In the archive are the server's state directory, that of client c1, and facts.json:
what the server said of it. Clients c1 to c4 trained; c2 was deleted; the deletion of c3 waits for
clients. The archive holds the private key of that federation's receipts, which signs nothing else.
docs/releasing.md tells when to run it.
"""

from __future__ import annotations

import json
import signal
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from support.federation import CALL, OFFICER, LocalFederation, eventually

from fednot import __version__
from fednot.v1 import audit_pb2

CLIENTS = (1, 2, 3, 4)
SMALL = "hidden=8"
SHORT = {"full_budget": True, "max_rounds": 2, "min_rounds": 2}


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = ("--keep-versions", "2", "--task-arg", SMALL, "--min-clients", "2")
        with LocalFederation(folder, server_flags=flags) as federation:
            lived(federation)
            facts = told(federation)
            federation.kill("server", signal.SIGTERM)
        (folder / "facts.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
        with tarfile.open(target, "w:xz") as archive:
            for kept in ("facts.json", "server", "c1"):
                archive.add(folder / kept, kept)


def lived(federation: LocalFederation) -> None:
    """A training, a deletion that ends, and one that cannot since nobody is connected."""
    federation.start_server()
    for index in CLIENTS:
        federation.start_client(index, SMALL)
    federation.await_connected(len(CLIENTS))
    federation.train(3)
    federation.unlearn("c2", "withdrawal-1", **SHORT)
    federation.await_job("withdrawal-1")
    for index in CLIENTS:
        federation.kill(f"c{index}", signal.SIGTERM)
    eventually("all have gone", lambda: federation.status().clients_connected == 0, 60)
    federation.unlearn("c3", "withdrawal-2", **SHORT)


def told(federation: LocalFederation) -> dict[str, Any]:
    stubs = federation.stubs_for(*OFFICER)
    audit = stubs.audit.ListAuditEntries(
        audit_pb2.ListAuditEntriesRequest(page_size=1000), timeout=CALL
    )
    facts = {
        "fednot": __version__,
        "versions": [MessageToDict(each) for each in federation.versions().values()],
        "deletions": [
            MessageToDict(federation.deletion(name)) for name in ("withdrawal-1", "withdrawal-2")
        ],
        "rounds": [MessageToDict(each) for each in federation.rounds()],
        "audit": [MessageToDict(each) for each in audit.entries],
    }
    if hasattr(stubs, "receipts"):
        from fednot.v1 import receipt_pb2

        request = receipt_pb2.GetReceiptRequest(request_id="withdrawal-1")
        facts["receipt"] = MessageToDict(stubs.receipts.GetReceipt(request, timeout=CALL))
    return facts


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
