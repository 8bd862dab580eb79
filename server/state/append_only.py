"""The triggers by which each database itself refuses whatever is no appending to the audit.

They are part of the first migration: a change needs a further one.
"""

from __future__ import annotations

from typing import Final

_SQLITE: Final = (
    """
CREATE TRIGGER audit_is_appended_to BEFORE INSERT ON audit
WHEN new.sequence <> (SELECT coalesce(max(sequence), 0) + 1 FROM audit)
BEGIN SELECT raise(ABORT, 'the audit is append-only, without a gap'); END
""",
    """
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT raise(ABORT, 'the audit is append-only'); END
""",
    """
CREATE TRIGGER audit_is_not_shortened BEFORE DELETE ON audit
BEGIN SELECT raise(ABORT, 'the audit is append-only'); END
""",
)
_POSTGRES: Final = (
    """
CREATE FUNCTION audit_takes_the_next_alone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF new.sequence <> (SELECT coalesce(max(sequence), 0) + 1 FROM audit) THEN
    RAISE EXCEPTION 'the audit is append-only, without a gap';
  END IF;
  RETURN new;
END $$
""",
    """
CREATE FUNCTION audit_takes_no_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$
""",
    """
CREATE TRIGGER audit_is_appended_to BEFORE INSERT ON audit
FOR EACH ROW EXECUTE FUNCTION audit_takes_the_next_alone()
""",
    """
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION audit_takes_no_change()
""",
    """
CREATE TRIGGER audit_is_not_shortened BEFORE DELETE OR TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION audit_takes_no_change()
""",
)

APPEND_ONLY: Final = {"sqlite": _SQLITE, "postgresql": _POSTGRES}
"""Statements by dialect, in the order in which they are run."""
