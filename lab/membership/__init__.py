"""Membership inference for the lab: who was trained on, told from a model's answers."""
