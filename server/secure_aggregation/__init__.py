"""The server's side of secure aggregation: it leads a masked round and sees its sum alone."""
