-- Statements of store/suppressions.py. Few rows; read whole.

-- name: all
SELECT suppression_id, kind, subject, workload, node, site, since, until, reason, by, created FROM suppression
WHERE until >= %(ends_after)s
ORDER BY since, suppression_id
LIMIT %(limit)s

-- name: add
INSERT INTO suppression (kind, subject, workload, node, site, since, until, reason, by)
VALUES (%(kind)s, %(subject)s, %(workload)s, %(node)s, %(site)s, %(since)s, %(until)s, %(reason)s, %(by)s)
RETURNING suppression_id, kind, subject, workload, node, site, since, until, reason, by, created

-- name: delete
DELETE FROM suppression WHERE suppression_id = %(suppression_id)s
RETURNING suppression_id, kind, subject, workload, node, site, since, until, reason, by, created
