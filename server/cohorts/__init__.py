"""Cohorts: where work is sent and answers come from."""
