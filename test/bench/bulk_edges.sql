-- Tables at the edges of what bulk loads meet, and what fills their files.

CREATE TABLE narrow (a int, b int);
CREATE TABLE narrow_text (a text, b text);
CREATE TABLE keyed (id int PRIMARY KEY, amount numeric(12,2), day date, note text);
CREATE TABLE wide (id int, t1 text, t2 text, t3 text, t4 text, t5 text, t6 text, t7 text, t8 text);

-- The given share of rows repeats the key of an earlier one.
CREATE FUNCTION keyed_rows(n int, duplicate_every int) RETURNS SETOF keyed LANGUAGE sql AS $$
	SELECT CASE WHEN i % duplicate_every = 0 THEN abs(hashint4(i)) % i + 1 ELSE i END,
		(i % 100000) / 100.0, date '2000-01-01' + i % 9000, md5(i::text)
	FROM generate_series(1, n) i
$$;

-- About 1.6 KB; every field of the quoted kind holds a quote and a line end.
CREATE FUNCTION wide_rows(n int, quoted boolean) RETURNS SETOF wide LANGUAGE sql AS $$
	SELECT i, t, t, t, t, t, t, t, t
	FROM generate_series(1, n) i,
		LATERAL (SELECT repeat(md5(i::text), 6) ||
			CASE WHEN quoted THEN E'she said "no",\nand left' ELSE '' END AS t) x
$$;
