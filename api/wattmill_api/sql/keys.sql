-- Statements of store/keys.py.

-- name: add
INSERT INTO api_key (key_id, sha256, scope, name)
VALUES (%(key_id)s, %(sha256)s, %(scope)s, %(name)s)

-- name: all
SELECT key_id, scope, name, created, revoked
FROM api_key
ORDER BY created, key_id

-- name: find
SELECT sha256, scope, revoked
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
