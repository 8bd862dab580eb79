"""The aggregation server: it keeps the global model, runs rounds, and forgets on request.

Importing it makes gRPC's own log quiet unless GRPC_VERBOSITY says otherwise, as in `fednot.cli`:
each failed handshake would be a line of it, in the midst of the server's own.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
