"""The aggregation server: it keeps the global model, runs rounds, and forgets on request."""
