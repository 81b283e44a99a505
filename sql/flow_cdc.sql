--
-- CDC pipelines: what they are made of, who may have them, and what is refused.
-- Nothing runs here: that needs wal_level and shared_preload_libraries.
--
CREATE ROLE etl_root SUPERUSER LOGIN;
SET SESSION AUTHORIZATION etl_root;
CREATE EXTENSION etl_patterns;
CREATE ROLE etl_ann LOGIN REPLICATION;
CREATE ROLE etl_bob LOGIN;
CREATE ROLE etl_team REPLICATION;
CREATE ROLE etl_watcher LOGIN IN ROLE pg_monitor;
CREATE SCHEMA shop;
GRANT USAGE ON SCHEMA shop TO PUBLIC;

CREATE TABLE shop.orders (id int PRIMARY KEY, amount numeric, status text);
CREATE TABLE shop.lines (order_id int, line int, item text);
CREATE TABLE orders_copy (LIKE shop.orders INCLUDING ALL);
CREATE TABLE orders_log (LIKE shop.orders);

-- The defaults, and all that can be said.  That the server is not prepared is a warning.
SELECT etl_cdc_create('sales');
\x
SELECT pipeline_id, pipeline, role, server, snapshot, on_error, batch_transactions, state,
    slot_name = format('etl_%s_1', (SELECT oid FROM pg_database WHERE datname = current_database())) AS slot_is_named,
    has_slot, applied_lsn, applied_at, source_committed_at, transactions, inserts, updates, deletes, truncates,
    reads, error_code, error_message, error_hint, error_change, error_at, skip_lsn, created_at > now() - interval '1 hour' AS is_new
FROM etl_patterns.cdc_pipeline;
\x
SET client_min_messages = error;
SELECT etl_cdc_create(pipeline => 'log only', server => NULL, snapshot => 'none', on_error => 'dead_letter',
    batch_transactions => 1);
SELECT pipeline, snapshot, on_error, batch_transactions FROM etl_patterns.cdc_pipeline ORDER BY 1;
RESET client_min_messages;

-- What is no pipeline.
SELECT etl_cdc_create(NULL);
SELECT etl_cdc_create('');
SELECT etl_cdc_create(' x');
SELECT etl_cdc_create(repeat('x', 201));
SELECT etl_cdc_create(E'two\nlines');
SELECT etl_cdc_create('sales');
SELECT etl_cdc_create('x', snapshot => 'sometimes');
SELECT etl_cdc_create('x', snapshot => NULL);
SELECT etl_cdc_create('x', on_error => 'ignore');
SELECT etl_cdc_create('x', batch_transactions => 0);
SELECT etl_cdc_create('x', server => 'nowhere');
BEGIN READ ONLY;
SELECT etl_cdc_create('x');
ROLLBACK;

-- Servers.
CREATE FOREIGN DATA WRAPPER etl_no_postgres;
CREATE SERVER etl_other FOREIGN DATA WRAPPER etl_no_postgres;
SELECT etl_cdc_create('x', server => 'etl_other');
CREATE EXTENSION postgres_fdw;
CREATE SERVER etl_remote FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '/nonexistent');
-- No user mapping; the words differ by the version of PostgreSQL.
\set VERBOSITY sqlstate
SELECT etl_cdc_create('x', server => 'etl_remote');
\set VERBOSITY default
CREATE USER MAPPING FOR etl_root SERVER etl_remote;
SELECT etl_cdc_create('far', server => 'etl_remote');
SELECT server, slot_name ~ format('^etl_%s_\d+_%s$', d.oid, s.system_identifier) AS slot_is_named
FROM etl_patterns.cdc_pipeline, pg_database d, pg_control_system() s
WHERE pipeline = 'far' AND datname = current_database();
\set VERBOSITY terse
SELECT etl_cdc_add_table('far', 'shop.orders', 'orders_copy');
SELECT etl_cdc_start('far');
\set VERBOSITY default

-- Who may have one.
SET SESSION AUTHORIZATION etl_bob;
SELECT etl_cdc_create('bob');
SELECT etl_cdc_create('bob', server => 'etl_remote');
SELECT count(*) FROM etl_patterns.cdc_pipeline;
SELECT etl_cdc_start('sales');
SELECT etl_cdc_stop('sales');
SELECT etl_cdc_drop('sales');
SELECT etl_cdc_add_table('sales', 'shop.orders', 'orders_copy');
SELECT etl_cdc_alter_table('sales', 'shop.orders', 'orders_copy');
SELECT etl_cdc_remove_table('sales', 'shop.orders');
SELECT etl_cdc_wait('sales');
SELECT etl_cdc_skip('sales', '0/1');
SELECT etl_cdc_resync('sales');
SET SESSION AUTHORIZATION etl_watcher;
SELECT count(*) FROM etl_patterns.cdc_pipeline;
SELECT etl_cdc_drop('sales');
SET SESSION AUTHORIZATION etl_root;
SET ROLE etl_team;
SELECT etl_cdc_create('team');
RESET ROLE;
SET SESSION AUTHORIZATION etl_ann;
SET client_min_messages = error;
SELECT etl_cdc_create('sales');
SELECT etl_cdc_create('ann');
RESET client_min_messages;

-- What the owner needs of source and target.
SELECT etl_cdc_add_table('ann', 'shop.orders', 'orders_copy');
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION etl_root;
GRANT SELECT (id) ON shop.orders TO etl_ann;
SELECT etl_cdc_add_table('ann', 'shop.orders', 'orders_copy');
GRANT SELECT ON shop.orders TO etl_ann;
SELECT etl_cdc_add_table('ann', 'shop.orders', 'orders_copy');
GRANT SELECT, INSERT, UPDATE, DELETE ON orders_copy TO etl_ann;
SELECT etl_cdc_add_table('ann', 'shop.orders', 'orders_copy');
SELECT etl_cdc_add_table('ann', 'shop.orders', 'orders_log', apply => 'append');
GRANT TRUNCATE ON orders_copy TO etl_ann;
ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY;
SELECT etl_cdc_add_table('ann', 'shop.orders', 'orders_copy');
ALTER TABLE shop.orders DISABLE ROW LEVEL SECURITY;
SET SESSION AUTHORIZATION etl_ann;
SELECT etl_cdc_add_table('ann', 'shop.orders', 'orders_copy');
SET SESSION AUTHORIZATION etl_root;

-- Sources: names as they are seen from here, and what cannot be followed.
SET search_path = shop, public;
SELECT etl_cdc_add_table('sales', 'orders', 'orders_copy');
SELECT etl_cdc_add_table('sales', 'shop.orders', 'orders_copy');
SELECT etl_cdc_add_table('sales', 'orders', 'orders_log', apply => 'append');
RESET search_path;
SELECT pipeline, source, source_relation, role, target, apply, apply_options, columns, row_filter, state,
    copy_snapshot, rows_copied, copied_at
FROM etl_patterns.cdc_table WHERE pipeline = 'sales' ORDER BY source, target::text;
SELECT etl_cdc_add_table('sales', 'orders', 'orders_log');
SELECT etl_cdc_add_table('sales', 'shop.', 'orders_log');
SELECT etl_cdc_add_table('sales', 'elsewhere.shop.orders', 'orders_log');
SELECT etl_cdc_add_table('sales', 'nowhere.orders', 'orders_log');
SELECT etl_cdc_add_table('sales', 'shop.lines', 'orders_log');
SELECT etl_cdc_add_table('sales', NULL, 'orders_log');
SELECT etl_cdc_add_table('sales', 'shop.lines', NULL);
SELECT etl_cdc_add_table('sales', 'shop.lines', 'orders_log', NULL);
SELECT etl_cdc_add_table('sales', 'shop.lines', 'orders_log', 'append', NULL);
SELECT etl_cdc_add_table('nobody', 'shop.lines', 'orders_log');
ALTER TABLE shop.lines REPLICA IDENTITY NOTHING;
SELECT etl_cdc_add_table('sales', 'shop.lines', 'orders_log', 'scd2');
CREATE VIEW shop.seen AS SELECT * FROM shop.orders;
CREATE MATERIALIZED VIEW shop.kept AS SELECT * FROM shop.orders;
CREATE FOREIGN TABLE shop.far (id int) SERVER etl_remote;
CREATE SEQUENCE shop.numbers;
CREATE UNLOGGED TABLE shop.lost (id int PRIMARY KEY);
CREATE TEMP TABLE mine (id int PRIMARY KEY);
CREATE TABLE shop.parent (id int PRIMARY KEY);
CREATE TABLE shop.child () INHERITS (shop.parent);
CREATE TABLE shop.days (id int, day int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE shop.days1 PARTITION OF shop.days FOR VALUES FROM (1) TO (2);
SELECT etl_cdc_add_table('sales', 'shop.seen', 'orders_log');
SELECT etl_cdc_add_table('sales', 'shop.kept', 'orders_log');
SELECT etl_cdc_add_table('sales', 'shop.far', 'orders_log');
SELECT etl_cdc_add_table('sales', 'shop.numbers', 'orders_log');
SELECT etl_cdc_add_table('sales', 'shop.lost', 'orders_log');
-- (The schema of temporary tables has a number.)
CREATE FUNCTION error_of(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
BEGIN
    EXECUTE command;
    RETURN 'no error';
EXCEPTION WHEN others THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
    RETURN regexp_replace(message || ': ' || detail, 'pg_temp_\d+', 'pg_temp', 'g');
END
$$;
SELECT error_of($$ SELECT etl_cdc_add_table('sales', 'mine', 'orders_log') $$);
SELECT etl_cdc_add_table('sales', 'shop.parent', 'orders_log');
SELECT etl_cdc_add_table('sales', 'shop.days1', 'orders_log');
SELECT etl_cdc_add_table('sales', 'pg_class', 'orders_log');
SELECT etl_cdc_add_table('sales', 'etl_patterns.cdc_pipeline', 'orders_log');
-- What is true of a partition is true of the whole.
ALTER TABLE shop.days1 REPLICA IDENTITY NOTHING;
SELECT etl_cdc_add_table('sales', 'shop.days', 'orders_log');
ALTER TABLE shop.days1 REPLICA IDENTITY DEFAULT;
CREATE TABLE shop.keyless (id int, day int) PARTITION BY RANGE (day);
CREATE FOREIGN TABLE shop.keyless1 PARTITION OF shop.keyless FOR VALUES FROM (1) TO (2) SERVER etl_remote;
SELECT etl_cdc_add_table('sales', 'shop.keyless', 'orders_log', 'append');
CREATE UNLOGGED TABLE shop.days3 PARTITION OF shop.days FOR VALUES FROM (3) TO (4);
SELECT etl_cdc_add_table('sales', 'shop.days', 'orders_log');
DROP TABLE shop.days3;

-- Targets.
CREATE UNLOGGED TABLE lost_copy (id int PRIMARY KEY);
SELECT etl_cdc_add_table('sales', 'shop.days', 'lost_copy');
SELECT error_of($$ SELECT etl_cdc_add_table('sales', 'shop.days', 'mine') $$);
SELECT etl_cdc_add_table('sales', 'shop.days', 'shop.far');
SELECT etl_cdc_add_table('sales', 'shop.days', 'shop.kept');
SELECT etl_cdc_add_table('sales', 'shop.days', 'shop.numbers');
SELECT etl_cdc_add_table('sales', 'shop.days', 'pg_class');
SELECT etl_cdc_add_table('sales', 'shop.days', 'etl_patterns.run');
SELECT etl_cdc_add_table('sales', 'shop.days', 'shop.days');
SELECT etl_cdc_add_table('sales', 'shop.days', 0::oid::regclass);
SELECT etl_cdc_add_table('sales', 'shop.days', 'nowhere');

-- Circles: of one table, of two, by way of another role's pipeline, and of partitions.
SELECT etl_cdc_add_table('sales', 'orders_copy', 'shop.orders');
CREATE TABLE third (LIKE shop.orders INCLUDING ALL);
SELECT etl_cdc_add_table('sales', 'orders_copy', 'third');
SELECT etl_cdc_add_table('log only', 'third', 'shop.orders');
SELECT etl_cdc_add_table('log only', 'shop.days', 'shop.days1');
SELECT etl_cdc_remove_table('sales', 'orders_copy');
SELECT etl_cdc_add_table('log only', 'third', 'shop.orders');
SELECT etl_cdc_remove_table('log only', 'third', 'shop.orders');

-- Words, options, columns, filters.
SELECT etl_cdc_add_table('sales', 'shop.days', 'third', 'copy');
SELECT etl_cdc_add_table('sales', 'shop.days', 'third', 'append', '[]');
SELECT etl_cdc_add_table('sales', 'shop.orders', 'third', 'append', columns => '[]');
SELECT etl_cdc_add_table('sales', 'shop.orders', 'third', 'append', columns => '{"id": 1}');
SELECT etl_cdc_add_table('sales', 'shop.orders', 'third', 'append', columns => '{"nothing": "id"}');
SELECT etl_cdc_add_table('sales', 'shop.days', 'third', 'append', row_filter => 'id >');
SELECT etl_cdc_add_table('sales', 'shop.days', 'third', 'append', row_filter => 'true FROM pg_class');
SELECT etl_cdc_add_table('sales', 'shop.days', 'third', 'append', row_filter => 'true; DROP TABLE third');

-- What only the sink can know, and what becomes of columns, is tried as the owner of the pipeline.
CREATE TABLE keyless (id int, amount numeric, status text);
SELECT etl_cdc_add_table('sales', 'shop.orders', 'third', 'append', '{"conflict": "apply"}');
SELECT etl_cdc_add_table('sales', 'shop.orders', 'third', 'mirror', '{"conflict": "maybe"}');
SELECT etl_cdc_add_table('sales', 'shop.orders', 'third', 'mirror', '{"conflicts": "error"}');
SELECT etl_cdc_add_table('sales', 'shop.orders', 'third', row_filter => 'nothing > 1');
SELECT etl_cdc_add_table('sales', 'shop.orders', 'third', row_filter => 'amount');
SELECT etl_cdc_add_table('sales', 'shop.orders', 'third', columns => '{"amount": "nothing"}');
SELECT etl_cdc_add_table('sales', 'shop.orders', 'third', columns => '{"status": {"expr": "*"}}');
SELECT etl_cdc_add_table('sales', 'shop.orders', 'third', columns => '{"status": {"expr": "orders.*"}}');
SELECT etl_cdc_add_table('sales', 'shop.orders', 'third', row_filter => '*');
SELECT etl_cdc_add_table('sales', 'shop.days', 'keyless');
SELECT etl_cdc_add_table('sales', 'shop.orders', 'third', 'scd2');
SELECT etl_cdc_add_table('sales', 'shop.orders', 'third', 'changelog');
SELECT etl_cdc_add_table('sales', 'shop.orders', 'third', 'function');
CREATE FUNCTION shop.secret(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
REVOKE EXECUTE ON FUNCTION shop.secret FROM PUBLIC;
SELECT etl_cdc_alter_table('ann', 'shop.orders', 'orders_copy', row_filter => 'shop.secret(1)');
SELECT row_filter FROM etl_patterns.cdc_table WHERE pipeline = 'ann';

-- What is null stays; what is empty says nothing.
SELECT etl_cdc_alter_table('sales', 'shop.orders', 'orders_log', columns => '{"id": "id"}', row_filter => 'id > 1');
SELECT apply, apply_options, columns, row_filter FROM etl_patterns.cdc_table WHERE pipeline = 'sales' AND target = 'orders_log'::regclass;
SELECT etl_cdc_alter_table('sales', 'shop.orders', 'orders_log');
SELECT apply, apply_options, columns, row_filter FROM etl_patterns.cdc_table WHERE pipeline = 'sales' AND target = 'orders_log'::regclass;
SELECT etl_cdc_alter_table('sales', 'shop.orders', 'orders_log', columns => '{}', row_filter => '');
SELECT apply, apply_options, columns, row_filter FROM etl_patterns.cdc_table WHERE pipeline = 'sales' AND target = 'orders_log'::regclass;
SELECT etl_cdc_alter_table('sales', 'shop.orders', 'orders_log', apply => 'nothing');
SELECT etl_cdc_alter_table('sales', 'shop.orders', 'third');
SELECT etl_cdc_alter_table('sales', 'shop.lines', 'orders_log');
SELECT etl_cdc_alter_table('sales', 'shop.orders', NULL);

-- Tables that are renamed or dropped are still found.
ALTER TABLE shop.orders RENAME TO sold;
SELECT etl_cdc_alter_table('sales', 'shop.sold', 'orders_log', row_filter => 'id > 2');
SELECT source, source_relation, target FROM etl_patterns.cdc_table WHERE pipeline = 'sales' ORDER BY source, target::text;
DROP TABLE shop.sold CASCADE;
SELECT etl_cdc_alter_table('sales', 'shop.sold', 'orders_log', row_filter => 'id > 3');
SELECT etl_cdc_remove_table('sales', 'shop.sold');
SELECT etl_cdc_remove_table('sales', 'shop.sold');
SELECT etl_cdc_remove_table('sales', NULL);

-- What there is to see of it: owners see their own.
SELECT pipeline, role, server, state, reason, hint, tables, tables_new, pid, reader_pid, wal_lsn IS NULL AS no_wal,
    read_lsn, applied_lsn, confirmed_lsn, read_lag_bytes, applied_lag_bytes, confirmed_lag_bytes, lag_seconds,
    retained_bytes, transactions, rows_copied
FROM etl_patterns.cdc_status ORDER BY pipeline;
SELECT * FROM etl_cdc_workers();
SET SESSION AUTHORIZATION etl_ann;
SELECT pipeline FROM etl_patterns.cdc_status;
SET SESSION AUTHORIZATION etl_bob;
SELECT pipeline FROM etl_patterns.cdc_status;
SET SESSION AUTHORIZATION etl_watcher;
SELECT count(*) FROM etl_patterns.cdc_status;
SET SESSION AUTHORIZATION etl_root;

-- What does not run.
SELECT etl_cdc_start('sales');
SELECT etl_cdc_start(NULL);
SELECT etl_cdc_start('nobody');
SELECT etl_cdc_stop('sales');
SELECT etl_cdc_wait('sales');
SELECT etl_cdc_wait('sales', '0/0', '-1 s');
SELECT etl_cdc_skip('sales', NULL);
SELECT etl_cdc_skip('sales', '0/1');
SELECT skip_lsn FROM etl_patterns.cdc_pipeline WHERE pipeline = 'sales';
CREATE TABLE shop.orders (id int PRIMARY KEY);
SELECT etl_cdc_add_table('sales', 'shop.orders', 'third');
SELECT etl_cdc_start('sales');

-- Nothing that was rolled back is left, and what is dropped is gone.
BEGIN;
SELECT etl_cdc_drop('sales');
SELECT count(*) FROM etl_patterns.cdc_table WHERE pipeline = 'sales';
ROLLBACK;
SELECT count(*) FROM etl_patterns.cdc_table WHERE pipeline = 'sales';
BEGIN;
SAVEPOINT a;
SELECT etl_cdc_drop('sales');
ROLLBACK TO a;
COMMIT;
SELECT count(*) FROM etl_patterns.cdc_table WHERE pipeline = 'sales';
SELECT etl_cdc_drop('sales');
SELECT etl_cdc_drop('far');
SELECT etl_cdc_drop('ann');
SELECT etl_cdc_drop('log only');
SELECT etl_cdc_drop('sales');
SELECT count(*) FROM etl_patterns.cdc_pipeline;
SELECT count(*) FROM etl_patterns.cdc_table;

\set VERBOSITY terse
SET client_min_messages = warning;
DROP EXTENSION etl_patterns;
DROP EXTENSION postgres_fdw CASCADE;
DROP FOREIGN DATA WRAPPER etl_no_postgres CASCADE;
DROP SCHEMA shop CASCADE;
DROP FUNCTION error_of;
DROP TABLE orders_copy, orders_log, third, lost_copy, keyless, mine;
DROP ROLE etl_ann, etl_bob, etl_team, etl_watcher;
RESET SESSION AUTHORIZATION;
DROP OWNED BY etl_root;
DROP ROLE etl_root;
