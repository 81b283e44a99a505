-- The source of the pull benchmarks: rows like those of TPC-H's lineitem that
-- were last changed in their order, the four of an order together.

CREATE TABLE src (LIKE lineitem, updated_at timestamptz NOT NULL);

INSERT INTO src
SELECT r.*, timestamptz '2024-01-01 00:00+00' + (row_number() OVER () - 1) / 4 * interval '1.5 seconds'
FROM lineitem_rows(:rows) r;

VACUUM (FREEZE, ANALYZE) src;
