"""The migrations of the state, one file for each step."""
