--
-- Rows that an incremental pull could put into its target as they are stored,
-- and those that only look so: columns that were added or dropped, lengths,
-- order, constraints.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set pull :abs_srcdir '/sql/include/pull.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
\i :pull
-- What a pull says, and whether both sides have the same rows then.
CREATE FUNCTION copied(name text, source regclass, target regclass) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    line text;
    same boolean;
BEGIN
    FOR line IN SELECT pull(name, source::text, target::text, $o$'id', safety => 'none'$o$) LOOP
        RETURN NEXT line;
    END LOOP;
    EXECUTE format('SELECT NOT EXISTS (SELECT to_jsonb(s) FROM %1$s s EXCEPT ALL SELECT to_jsonb(t) FROM %2$s t)
        AND NOT EXISTS (SELECT to_jsonb(t) FROM %2$s t EXCEPT ALL SELECT to_jsonb(s) FROM %1$s s)', source, target)
    INTO same;
    RETURN NEXT CASE WHEN same THEN 'equal' ELSE 'different' END;
END $$;

-- The plain case, with nulls, and values kept outside of the row and compressed.
CREATE TABLE tup_src (id int NOT NULL, a text, b numeric(10, 2), c char(5), d timestamptz);
INSERT INTO tup_src VALUES (1, 'x', 1.5, 'abc', '2024-01-01'), (2, NULL, NULL, NULL, NULL), (3, '', 0, '', 'infinity');
INSERT INTO tup_src SELECT 4, string_agg(md5(i::text), ''), 4 FROM generate_series(1, 1000) i;
INSERT INTO tup_src SELECT 5, repeat('y', 100000), 5;
CREATE TABLE tup_dst (LIKE tup_src);
SELECT copied('plain', 'tup_src', 'tup_dst');
SELECT pg_relation_size(reltoastrelid) > 30000 AS has_toast FROM pg_class WHERE oid = 'tup_dst'::regclass;
-- It has a copy of its own.
DELETE FROM tup_src WHERE id = 4;
VACUUM tup_src;
SELECT id, length(a), md5(a) FROM tup_dst WHERE id >= 4 ORDER BY id;
INSERT INTO tup_src SELECT i, 'row ' || i FROM generate_series(6, 2505) i;
DELETE FROM tup_dst WHERE id = 4;
SELECT copied('plain', 'tup_src', 'tup_dst');

-- Rows from before a column was added, with a default and without.
CREATE TABLE tup_old (id int, a text);
INSERT INTO tup_old VALUES (1, 'old');
ALTER TABLE tup_old ADD b int DEFAULT 7, ADD c text;
INSERT INTO tup_old VALUES (2, 'new', 8, 'c');
CREATE TABLE tup_old_dst (id int, a text, b int, c text);
SELECT copied('old', 'tup_old', 'tup_old_dst');
CREATE TABLE tup_old_default (id int, a text);
ALTER TABLE tup_old_default ADD b int DEFAULT 9, ADD c text DEFAULT 'not this';
SELECT copied('old default', 'tup_old', 'tup_old_default');
CREATE TABLE tup_short (id int, a text);
INSERT INTO tup_short VALUES (1, 'old');
ALTER TABLE tup_short ADD b int;
CREATE TABLE tup_short_dst (id int, a text);
ALTER TABLE tup_short_dst ADD b int DEFAULT 9;
SELECT copied('short', 'tup_short', 'tup_short_dst');
CREATE TABLE tup_short_not_null (id int, a text, b int NOT NULL);
SELECT copied('short not null', 'tup_short', 'tup_short_not_null');

-- Columns dropped on one side or on both.
CREATE TABLE tup_gap (x text, id int, a text);
INSERT INTO tup_gap VALUES ('gone', 1, 'one');
ALTER TABLE tup_gap DROP x;
CREATE TABLE tup_gap_dst (id int, a text);
SELECT copied('gap', 'tup_gap', 'tup_gap_dst');
CREATE TABLE tup_gap_both (x text, id int, a text);
ALTER TABLE tup_gap_both DROP x;
SELECT copied('gap both', 'tup_gap', 'tup_gap_both');

-- Another order, fewer columns, more columns.
CREATE TABLE tup_order (a text, id int);
SELECT copied('order', 'tup_gap', 'tup_order');
CREATE TABLE tup_swap (id int, a int, b int);
INSERT INTO tup_swap VALUES (1, 2, 3);
CREATE TABLE tup_swap_dst (id int, b int, a int);
SELECT copied('swap', 'tup_swap', 'tup_swap_dst');
SELECT * FROM tup_swap_dst;
CREATE TABLE tup_more (id int, a text, z int DEFAULT 5);
SELECT copied('more', 'tup_gap', 'tup_more');
SELECT * FROM tup_more;

-- Lengths, domains and other types.
CREATE TABLE tup_long (id int, v varchar(10), n numeric(6, 3));
INSERT INTO tup_long VALUES (1, 'short', 1.005);
CREATE TABLE tup_long_dst (id int, v varchar(5), n numeric(6, 1));
SELECT copied('long', 'tup_long', 'tup_long_dst');
SELECT * FROM tup_long_dst;
INSERT INTO tup_long VALUES (2, 'too long', 2);
SELECT copied('long', 'tup_long', 'tup_long_dst');
CREATE DOMAIN tup_small AS int CHECK (VALUE < 10);
CREATE TABLE tup_int (id int, a int);
INSERT INTO tup_int VALUES (1, 5);
CREATE TABLE tup_int_dst (id int, a tup_small);
SELECT copied('domain', 'tup_int', 'tup_int_dst');
INSERT INTO tup_int VALUES (2, 50);
SELECT copied('domain', 'tup_int', 'tup_int_dst');

-- What the target demands and does.
CREATE TABLE tup_check (id int, a int CHECK (a < 10));
SELECT copied('check', 'tup_int', 'tup_check');
CREATE TABLE tup_null (id int, a int);
INSERT INTO tup_null VALUES (1, NULL);
CREATE TABLE tup_not_null (id int, a int NOT NULL);
SELECT copied('not null', 'tup_null', 'tup_not_null');
CREATE TABLE tup_generated (id int, a int, b int GENERATED ALWAYS AS (a * 2) STORED);
SELECT copied('generated', 'tup_int', 'tup_generated');
SELECT * FROM tup_generated ORDER BY id;
CREATE TABLE tup_plain (id int, a int, b int);
SELECT copied('from generated', 'tup_generated', 'tup_plain');
CREATE TABLE tup_trigger (id int, a int);
CREATE FUNCTION tup_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.id = 2 THEN
		RETURN NULL;
	END IF;
	NEW.a := NEW.a + 100;
	RETURN NEW;
END
$$;
CREATE TRIGGER change BEFORE INSERT ON tup_trigger FOR EACH ROW EXECUTE FUNCTION tup_change();
SELECT copied('trigger', 'tup_int', 'tup_trigger');
SELECT * FROM tup_trigger;
SELECT * FROM tup_int ORDER BY id;

-- Partitions whose columns lie elsewhere, as a source and as a target.
CREATE TABLE tup_part (id int, a text) PARTITION BY RANGE (id);
CREATE TABLE tup_part_1 PARTITION OF tup_part FOR VALUES FROM (0) TO (10);
CREATE TABLE tup_part_2 (x int, a text, id int);
ALTER TABLE tup_part_2 DROP x;
ALTER TABLE tup_part ATTACH PARTITION tup_part_2 FOR VALUES FROM (10) TO (20);
INSERT INTO tup_part SELECT i, 'row ' || i FROM generate_series(1, 19) i;
CREATE TABLE tup_part_dst (id int, a text);
SELECT copied('from partitions', 'tup_part', 'tup_part_dst');
CREATE TABLE tup_part_copy (LIKE tup_part) PARTITION BY RANGE (id);
CREATE TABLE tup_part_copy_2 (a text, id int);
ALTER TABLE tup_part_copy ATTACH PARTITION tup_part_copy_2 FOR VALUES FROM (5) TO (20);
CREATE TABLE tup_part_copy_1 PARTITION OF tup_part_copy FOR VALUES FROM (0) TO (5);
SELECT copied('into partitions', 'tup_part_dst', 'tup_part_copy');
CREATE VIEW tup_view AS SELECT id, a FROM tup_part_dst;
CREATE TABLE tup_view_dst (id int, a text, UNIQUE (id));
SELECT copied('from a view', 'tup_view', 'tup_view_dst');
SELECT count(*) FROM tup_view_dst WHERE id = 7;
\i :end
