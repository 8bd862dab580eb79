"""The training client; `python -m client` runs it. Nothing here is for users' code to import.

Importing it makes gRPC's own log quiet unless GRPC_VERBOSITY says otherwise, as in `fednot.cli`.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
