--
-- Who sees and who changes what is remembered.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
CREATE ROLE etl_one;
CREATE ROLE etl_two;
CREATE ROLE etl_boss IN ROLE etl_one;
CREATE ROLE etl_watcher;
GRANT pg_read_server_files TO etl_one, etl_two;
GRANT pg_monitor TO etl_watcher;
CREATE TABLE t (a int, who text DEFAULT current_user);
GRANT SELECT, INSERT ON t TO etl_one, etl_two, etl_boss;
SELECT file('1.csv', E'a\n1\nx\n');
SELECT file('2.csv', E'a\n22\nyy\n');
SET ROLE etl_one;
SELECT load('t', '1.csv', 'on_error => ''dead_letter''');
SELECT etl_watermark_set('one', '100');
SET ROLE etl_two;
SELECT load('t', '2.csv', 'on_error => ''dead_letter''');
SELECT etl_watermark_set('two', '200');
RESET ROLE;
CREATE FUNCTION seen() RETURNS text LANGUAGE sql AS $$
    SELECT format('%s runs, %s files, %s letters, %s watermarks',
        (SELECT count(*) FROM etl_patterns.run), (SELECT count(*) FROM etl_patterns.loaded_file),
        (SELECT count(*) FROM etl_patterns.dead_letter), (SELECT count(*) FROM etl_patterns.watermark)) $$;
SET ROLE etl_one; SELECT current_user, seen(); SELECT role, raw_record FROM etl_patterns.dead_letter;
SET ROLE etl_two; SELECT current_user, seen(); SELECT role, raw_record FROM etl_patterns.dead_letter;
SET ROLE etl_boss; SELECT current_user, seen();
SET ROLE etl_watcher; SELECT current_user, seen();
RESET ROLE; SELECT current_user = session_user, seen();

-- What is loaded is loaded, whoever looks.
SET ROLE etl_one;
SELECT load('t', '2.csv');
-- No writing by hand.
SELECT c, try(format(c, s)) FROM unnest('{run,loaded_file,dead_letter,watermark}'::text[]) s,
    unnest('{INSERT INTO etl_patterns.%s DEFAULT VALUES,DELETE FROM etl_patterns.%s,TRUNCATE etl_patterns.%s,UPDATE etl_patterns.%s SET role = 0,LOCK etl_patterns.%s IN SHARE MODE}'::text[]) c;
SELECT try('SELECT nextval(''etl_patterns.' || s || ''')') FROM unnest('{run_id_seq,file_id_seq,dead_letter_id_seq}'::text[]) s;
SELECT try('CREATE TABLE etl_patterns.mine (a int)');
-- Nor with letters of others.
SELECT dead_letter_id AS own FROM etl_patterns.dead_letter \gset
SELECT try('SELECT etl_dead_letter_edit(' || 1 - :own + 2 || ', ''5'')');
SELECT etl_dead_letter_discard('{1,2}');
SET ROLE etl_two;
SELECT try('SELECT etl_dead_letter_edit(' || :own || ', ''5'')');
SELECT * FROM etl_dead_letter_replay('t', ARRAY[:own]);
SELECT etl_dead_letter_purge('-1 day');
SELECT etl_dead_letter_edit(dead_letter_id, '6') FROM etl_patterns.dead_letter;
-- Replayed with the rights of who replays: without INSERT there is none.
RESET ROLE;
REVOKE INSERT ON t FROM etl_two;
SET ROLE etl_two;
SELECT try('SELECT * FROM etl_dead_letter_replay()');
-- Seeing is not touching: a watcher may not replay.
SET ROLE etl_watcher;
SELECT * FROM etl_dead_letter_replay();
SELECT etl_dead_letter_discard('{1,2}');
SELECT try('SELECT etl_dead_letter_edit(2, ''5'')');
-- A superuser may.
RESET ROLE;
SELECT * FROM etl_dead_letter_replay();
SELECT a FROM t ORDER BY a;
SELECT role, status, raw_record FROM etl_patterns.dead_letter ORDER BY dead_letter_id;

-- Watermarks.
SET ROLE etl_one;
SELECT etl_watermark_get('one'), etl_watermark_get('none');
SELECT try('SELECT etl_watermark_get(''two'')');
SELECT try('SELECT etl_watermark_set(''two'', ''0'')');
SELECT try('SELECT etl_watermark_reset(''two'')');
SELECT etl_watermark_set('one', '101');
SELECT pipeline, role, value FROM etl_patterns.watermark;
SELECT etl_watermark_reset('one'), etl_watermark_reset('one');
SELECT etl_watermark_get('one');
SELECT etl_watermark_set('one', NULL) IS NULL, etl_watermark_get(NULL) IS NULL;
BEGIN; SELECT etl_watermark_set('one', '7'); ROLLBACK;
SELECT etl_watermark_get('one');
SELECT etl_watermark_set(repeat('x', 300), 'long'), etl_watermark_get(repeat('x', 300));
SELECT etl_watermark_set('', 'empty name'), etl_watermark_get('');
SET ROLE etl_boss;
SELECT etl_watermark_set('one', '8');
SET ROLE etl_two;
SELECT try('SELECT etl_watermark_set(''one'', ''9'')');
RESET ROLE;
SELECT pipeline, value FROM etl_patterns.watermark WHERE pipeline IN ('one', 'two') ORDER BY 1;
SELECT etl_watermark_set('two', '201'), etl_watermark_get('two');
BEGIN READ ONLY;
SELECT etl_watermark_get('two');
SELECT etl_watermark_set('two', '202');
ROLLBACK;

-- A dropped role, a renamed one: the ledger goes on.
ALTER ROLE etl_two RENAME TO etl_deux;
SELECT DISTINCT role FROM etl_patterns.run WHERE role::text LIKE 'etl_d%';
DROP OWNED BY etl_one, etl_deux, etl_boss, etl_watcher;
DROP ROLE etl_boss, etl_deux, etl_watcher, etl_one;
SELECT count(*) FROM etl_patterns.run WHERE role::text ~ '^\d+$';
SELECT * FROM etl_dead_letter_replay();
-- A dropped target.
DROP TABLE t;
SELECT count(*) FROM etl_patterns.run WHERE target::text ~ '^\d+$';
SELECT * FROM etl_dead_letter_replay();
\i :end
