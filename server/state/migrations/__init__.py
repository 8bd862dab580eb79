"""How the tables of older states become those of `server.state.schema`, by Alembic.

A new migration is a file of `versions` with the next number, and its number is
`server.state.upgrading.NEWEST`. Released ones are never changed.
"""
