-- Statements of store/database.py.

-- name: as_one_snapshot
-- From the beginning: a route that wants one asks again, inside of this transaction, and may only ask for the same.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ

-- name: see_only
-- Until the end of the transaction; the array travels as text and comes back as it was.
SELECT set_config('wattmill.teams', %(teams)s::text[]::text, true), set_config('search_path', 'wattmill_team', true)
