-- Rejected rows of a merge: what their dead letters hold, and what they mean
-- for keys that may be absent.
\getenv abs_srcdir PG_ABS_SRCDIR
\set begin :abs_srcdir '/sql/include/begin.sql'
\set end :abs_srcdir '/sql/include/end.sql'
\i :begin
SET DateStyle = 'ISO';
SET client_min_messages = notice;

CREATE TABLE source (id int, doc json, at date);
CREATE TABLE dim (id int, doc json, valid_from date, valid_to date, is_current boolean);
INSERT INTO dim VALUES (2, '1', '2019-01-01', NULL, true), (5, '1', '2019-01-01', NULL, true);

-- A key whose row is rejected is in the source all the same, so nothing is
-- closed.  A json that jsonb cannot hold is shown as text.
INSERT INTO source VALUES (1, '{"x": "\u0000"}', '2020-01-01'), (2, '1', NULL), (NULL, '{"y": 1e400000}', '2020-01-02');
SELECT rows_read, inserted, closed, rejected
FROM etl_scd2_merge('dim', 'source', '{id}', sequence_by => 'at', null_keys => 'dead_letter', absent => 'close');
SELECT category, error_message, payload FROM etl_patterns.dead_letter ORDER BY dead_letter_id;
SELECT * FROM dim ORDER BY id, valid_from;

-- A row without a key says nothing about any key.
DELETE FROM source WHERE id = 2;
SELECT rows_read, inserted, closed, unchanged, rejected
FROM etl_scd2_merge('dim', 'source', '{id}', sequence_by => 'at', null_keys => 'dead_letter', absent => 'close');
SELECT * FROM dim ORDER BY id, valid_from;

\i :end
