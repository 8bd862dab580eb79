"""The training client; `python -m client` runs it. Nothing here is for users' code to import."""
