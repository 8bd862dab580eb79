"""The control command `fednot`.

Importing it makes gRPC's own log quiet unless GRPC_VERBOSITY says otherwise: gRPC reads that when
it is first imported, and would write of closed connections between a command's lines.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
