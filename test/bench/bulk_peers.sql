-- Tables and files of bulk_peers.sh that are not lineitem's.

CREATE TABLE lineitem_three (LIKE lineitem, PRIMARY KEY (l_orderkey, l_linenumber));
CREATE INDEX ON lineitem_three (l_shipdate);
CREATE INDEX ON lineitem_three (l_partkey, l_suppkey);

-- A hundred columns of eight types, by turns; one in eleven values is NULL.
DO $$
DECLARE
	types text[] := '{int,numeric(12\,2),date,varchar(20),float8,timestamp,bool,text}';
	given text[] := ARRAY['(h / 3)::int', '(h % 100000000) / 100.0::numeric(12,2)', 'date ''2000-01-01'' + (h % 9000)::int',
		'substr(md5(i::text), 1, 1 + (h % 19)::int)', '(h % 1000003) / 7.0::float8',
		'timestamp ''2000-01-01'' + h % 700000000 * interval ''1 second''', 'h % 2 = 0',
		'''item '' || h || '', in stock'''];
BEGIN
	EXECUTE 'CREATE TABLE hundred (' ||
		(SELECT string_agg(format('c%s %s', n, types[1 + n % 8]), ', ' ORDER BY n) FROM generate_series(1, 100) n) || ')';
	EXECUTE 'CREATE FUNCTION hundred_rows(n bigint) RETURNS SETOF hundred LANGUAGE sql AS $f$ SELECT ' ||
		(SELECT string_agg(format('CASE WHEN (h + %s) %% 11 > 0 THEN %s END', n, given[1 + n % 8]), ', ' ORDER BY n)
		 FROM generate_series(1, 100) n) ||
		' FROM generate_series(1, n) i, LATERAL (SELECT abs(hashint8(i)::bigint) AS h) a $f$';
END
$$;

-- Articles of 200 to 1800 bytes, with quotes and line ends in them.
CREATE TABLE article (id int, author text, title text, body text);
CREATE FUNCTION article_rows(n bigint) RETURNS SETOF article LANGUAGE sql AS $$
	SELECT i::int, 'O''Neill, "Bob" ' || h % 1000, 'On "' || md5(i::text) || '"',
		(SELECT string_agg(md5(i::text || n), CASE n % 5 WHEN 0 THEN E'", he said;\nthen: "' ELSE ' ' END)
		 FROM generate_series(1, 5 + (h % 45)::int) n)
	FROM generate_series(1, n) i, LATERAL (SELECT abs(hashint8(i)::bigint) AS h) a
$$;
