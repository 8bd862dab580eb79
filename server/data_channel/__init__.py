"""The data channel: model bytes over connections of their own beside gRPC, each with a thread."""
