"""The gRPC services: thin servicers that unpack, call and pack."""
