--
-- The ways in which a merge reads its target: queries, a scan, an index.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE FUNCTION way() RETURNS text LANGUAGE sql AS
$$ SELECT detail->>'way' FROM etl_patterns.run ORDER BY run_id DESC LIMIT 1 $$;

-- Merges by each way, undone each time: the way, and a digest of the result.
CREATE FUNCTION ways(target regclass, call text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    path text;
    counts jsonb;
    digest text;
    first text;
    way text;
BEGIN
    FOREACH path IN ARRAY '{general,auto}'::text[] LOOP
        BEGIN
            PERFORM set_config('etl_patterns.merge_path', path, true);
            EXECUTE format('SELECT to_jsonb(r) - ''run_id'' FROM %s r', call) INTO counts;
            EXECUTE format('SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM %s t', target) INTO digest;
            digest := counts || digest;
            way := way();
            RAISE EXCEPTION USING errcode = 'ZZ000';
        EXCEPTION WHEN SQLSTATE 'ZZ000' THEN NULL;
        END;
        IF first IS NULL THEN
            first := digest;
            RETURN NEXT (SELECT string_agg(key || ' ' || value, ', ' ORDER BY key) FROM jsonb_each_text(counts) WHERE value <> '0');
        END IF;
        RETURN NEXT way || CASE WHEN digest = first THEN ': the same' ELSE ': differs' END;
    END LOOP;
END $$;

CREATE TABLE dim (id int, region text, v text, valid_from date, valid_to date, is_current bool);
INSERT INTO dim SELECT i, 'r' || i % 3, 'v' || i, date '2020-01-01' + 10 * n,
    CASE WHEN n < 2 THEN date '2020-01-11' + 10 * n END, n = 2
    FROM generate_series(1, 4000) i, generate_series(0, 2) n;
INSERT INTO dim VALUES (NULL, 'r0', 'no key', '2020-01-01', NULL, true);
CREATE TABLE few (id int, region text, v text, at date);
-- Changes, the same again, a late one, two of one key, new keys.
INSERT INTO few VALUES (7, 'r1', 'new', '2021-01-01'), (8, 'r2', 'v8', '2021-01-01'),
    (9, 'r0', 'late', '2020-01-15'), (10, 'r1', 'one', '2021-01-01'), (10, 'r1', 'two', '2021-02-01'),
    (25000, 'r1', 'v', '2021-01-01'), (25001, 'r1', 'v', '2020-01-01'), (25001, 'r1', 'w', '2020-02-01');
CREATE TABLE many AS SELECT i AS id, 'r' || i % 3 AS region, 'w' || i % 5 AS v, date '2020-03-01' AS at
    FROM generate_series(1, 20000, 2) i;
CREATE VIEW unknown AS SELECT * FROM many;
CREATE VIEW unknown_few AS SELECT * FROM few;
ANALYZE dim, few, many;
\set few 'SELECT ways(''dim'', ''etl_scd2_merge(''''dim'''', ''''few'''', ''''{id}'''', sequence_by => ''''at'''')'')'

-- Without an index there is but the scan.
:few;

-- Indexes that do not do.
CREATE INDEX ON dim (v, id);
CREATE INDEX ON dim (abs(id));
CREATE UNIQUE INDEX ON dim (id) WHERE is_current;
CREATE INDEX broken ON dim (id);
UPDATE pg_catalog.pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass;
:few;
DROP INDEX broken;

-- Those that do: by key and time, and by hash.
CREATE INDEX by_time ON dim (id, valid_from DESC);
:few;
DROP INDEX by_time;
CREATE INDEX by_hash ON dim USING hash (id);
:few;
DROP INDEX by_hash;
CREATE INDEX included ON dim (id DESC) INCLUDE (v);
:few;

-- Rows of other keys matter.
SELECT ways('dim', 'etl_scd2_merge(''dim'', ''few'', ''{id}'', sequence_by => ''at'', absent => ''close'')');
SELECT ways('dim', 'etl_scd2_merge(''dim'', ''few'', ''{id}'', sequence_by => ''at'', max_close_fraction => 0.5)');
-- Too many rows, which is known of a view only when it has been read.
SELECT ways('dim', 'etl_scd2_merge(''dim'', ''many'', ''{id}'', sequence_by => ''at'')');
-- A larger target, since 1000 rows are expected of a view.
INSERT INTO dim SELECT i, 'r' || i % 3, 'v', '2020-01-01', NULL, true FROM generate_series(40000, 80000) i;
ANALYZE dim;
SELECT ways('dim', 'etl_scd2_merge(''dim'', ''unknown'', ''{id}'', sequence_by => ''at'')');
SELECT ways('dim', 'etl_scd2_merge(''dim'', ''unknown_few'', ''{id}'', sequence_by => ''at'')');
DROP INDEX included;
DELETE FROM dim WHERE id >= 40000;

-- A key of two columns, in another order than that of the index.
CREATE INDEX pair ON dim (region, id, v);
SELECT ways('dim', 'etl_scd2_merge(''dim'', ''few'', ''{id,region}'', sequence_by => ''at'')');
DROP INDEX pair;

-- Whatever the operator class, equality must be that of the type, and the
-- collation that of the column.
CREATE TABLE word (w text COLLATE "C", v int);
INSERT INTO word SELECT 'word ' || i, i FROM generate_series(1, 5000) i;
CREATE TABLE words AS SELECT 'word ' || i AS w, -i AS v FROM generate_series(4998, 5003) i;
ANALYZE word, words;
CREATE INDEX foreign_order ON word (w COLLATE "POSIX");
\set words 'SELECT ways(''word'', ''etl_upsert(''''word'''', ''''words'''', ''''{w}'''')'')'
:words;
CREATE INDEX pattern ON word (w text_pattern_ops);
:words;
DROP INDEX pattern;
CREATE TABLE box (j jsonb, v int);
INSERT INTO box SELECT to_jsonb(i), i FROM generate_series(1, 5000) i;
CREATE TABLE boxes AS SELECT to_jsonb(i) AS j, -i AS v FROM generate_series(4998, 5003) i;
ANALYZE box, boxes;
CREATE OPERATOR CLASS other_ops FOR TYPE jsonb USING hash AS OPERATOR 1 @> (jsonb, jsonb), FUNCTION 1 jsonb_hash(jsonb);
CREATE INDEX other ON box USING hash (j other_ops);
\set boxes 'SELECT ways(''box'', ''etl_upsert(''''box'''', ''''boxes'''', ''''{j}'''')'')'
:boxes;
CREATE INDEX own ON box USING hash (j);
:boxes;

-- Values that are equal but not alike, and a column that came later.
CREATE TABLE price (p numeric, v int);
INSERT INTO price SELECT i / 2.0, i FROM generate_series(1, 5000) i;
ALTER TABLE price ADD COLUMN gone int, ADD COLUMN extra text DEFAULT 'later';
ALTER TABLE price DROP COLUMN gone;
CREATE INDEX ON price (p);
CREATE TABLE prices (p numeric, v int, extra text);
INSERT INTO prices VALUES (1.500, -3, 'later'), (2.00, 4, 'later'), (-1, 0, NULL), (2500.0000, 1, 'x');
ANALYZE price, prices;
SELECT ways('price', 'etl_upsert(''price'', ''prices'', ''{p}'')');

-- A key that is there twice is refused, whatever the way.
INSERT INTO word VALUES ('word 4999', 0);
CREATE INDEX own_order ON word (w);
SELECT try('SELECT etl_upsert(''word'', ''words'', ''{w}'')');
SET etl_patterns.merge_path = 'general';
SELECT try('SELECT etl_upsert(''word'', ''words'', ''{w}'')');
\i :end
