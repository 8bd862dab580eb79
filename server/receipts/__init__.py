"""Receipts: what they state, and the key that signs them."""
