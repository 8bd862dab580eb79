"""The server's side of secure aggregation: it leads clients through the steps of a masked round and
adds up what it cannot read. docs/secure-aggregation.md says what that is worth.
"""
