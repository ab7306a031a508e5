-- What a key may see. NULL: everything. No team at all would pass for that, and '' is what belongs to nobody.

ALTER TABLE api_key ADD COLUMN teams text[] CHECK (
    teams IS NULL OR (scope = 'read' AND cardinality(teams) > 0 AND '' <> ALL (teams))
);
