-- Statements of store/keys.py.

-- name: add
INSERT INTO api_key (key_id, sha256, scope, name, teams)
VALUES (%(key_id)s, %(sha256)s, %(scope)s, %(name)s, %(teams)s)

-- name: add_given
-- One that is known stays as it is: revoked once is revoked for good.
INSERT INTO api_key (key_id, sha256, scope, name)
VALUES (%(key_id)s, %(sha256)s, %(scope)s, %(name)s)
ON CONFLICT (key_id) DO NOTHING
RETURNING key_id

-- name: all
SELECT key_id, scope, name, created, revoked, teams
FROM api_key
ORDER BY created, key_id

-- name: find
SELECT sha256, scope, revoked, teams
FROM api_key
WHERE key_id = %(key_id)s

-- name: any
-- A revoked key counts: a service that once had keys never falls open again.
SELECT EXISTS (SELECT FROM api_key)

-- name: revoke
UPDATE api_key
SET revoked = COALESCE(revoked, now())
WHERE key_id = %(key_id)s
RETURNING key_id

-- name: name
SELECT COALESCE(NULLIF(name, ''), key_id) FROM api_key WHERE key_id = %(key_id)s

-- name: narrowable
-- Whether the views are there that a key of some teams reads (0013_team_views.sql).
SELECT to_regclass('wattmill_team.workload') IS NOT NULL
