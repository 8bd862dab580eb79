"""The ledger of deletions: an append-only file outside the database and outside any backup."""
