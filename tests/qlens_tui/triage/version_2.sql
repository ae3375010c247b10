-- The tables of version 2 of the triage file, as released: never to be changed.
CREATE TABLE dictionaries (
    id INTEGER PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    model TEXT NOT NULL,
    layer INTEGER NOT NULL
);
CREATE TABLE fields (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('star', 'reject', 'note', 'tag')),
    tag TEXT NOT NULL CHECK ((kind = 'tag') = (tag <> '')),
    UNIQUE (kind, tag)
);
INSERT INTO fields (kind, tag) VALUES ('star', ''), ('reject', ''), ('note', '');
-- value: 1, the text of a note, or NULL where a mark was taken off again.
CREATE TABLE marks (
    dictionary INTEGER NOT NULL REFERENCES dictionaries,
    feature INTEGER NOT NULL,
    field INTEGER NOT NULL REFERENCES fields,
    value,
    edit INTEGER NOT NULL,
    seal INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (dictionary, feature, field)
) WITHOUT ROWID;
CREATE TABLE edits (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    what TEXT NOT NULL
);
CREATE TABLE changes (
    edit INTEGER NOT NULL REFERENCES edits,
    dictionary INTEGER NOT NULL REFERENCES dictionaries,
    field INTEGER NOT NULL REFERENCES fields,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    before,
    before_edit INTEGER NOT NULL,
    after,
    seal INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (edit, dictionary, field, first)
) WITHOUT ROWID;
CREATE VIEW features AS
    SELECT d.model, d.name AS dictionary, d.layer, m.feature,
        MAX(f.kind = 'star') AS star, MAX(f.kind = 'reject') AS reject,
        GROUP_CONCAT(NULLIF(f.tag, ''), ', ') AS tags,
        MAX(CASE f.kind WHEN 'note' THEN m.value END) AS note
    FROM marks m JOIN dictionaries d ON d.id = m.dictionary JOIN fields f ON f.id = m.field
    WHERE m.value IS NOT NULL
    GROUP BY m.dictionary, m.feature;
CREATE VIEW history AS
    SELECT e.id AS edit, e.at, e.what, d.model, d.name AS dictionary, d.layer, c.first, c.last,
        f.kind, f.tag, c.before, c.after
    FROM edits e LEFT JOIN changes c ON c.edit = e.id
        LEFT JOIN dictionaries d ON d.id = c.dictionary LEFT JOIN fields f ON f.id = c.field;
PRAGMA application_id = 0x716C6E73;
PRAGMA user_version = 2;
