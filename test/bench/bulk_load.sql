-- Rows like those of TPC-H's lineitem, the same in each run: about 160 bytes
-- and sixteen columns of six types.

CREATE TABLE lineitem (
	l_orderkey bigint, l_partkey int, l_suppkey int, l_linenumber int,
	l_quantity numeric(15,2), l_extendedprice numeric(15,2),
	l_discount numeric(15,2), l_tax numeric(15,2),
	l_returnflag char(1), l_linestatus char(1),
	l_shipdate date, l_commitdate date, l_receiptdate date,
	l_shipinstruct char(25), l_shipmode char(10), l_comment varchar(44));
CREATE TABLE lineitem_key (LIKE lineitem, PRIMARY KEY (l_orderkey, l_linenumber));

-- Their text, so that nothing is padded, as in the files of TPC-H's dbgen.
CREATE FUNCTION lineitem_rows(n bigint) RETURNS TABLE (
	orderkey bigint, partkey int, suppkey int, linenumber int,
	quantity numeric, extendedprice numeric, discount numeric, tax numeric,
	returnflag text, linestatus text, shipdate date, commitdate date, receiptdate date,
	shipinstruct text, shipmode text, comment text)
LANGUAGE sql AS $$
	SELECT (i / 4) * 8 + i % 3, 1 + (h % 200000)::int, 1 + (h / 7 % 10000)::int, 1 + (i % 4)::int,
		q::numeric(15,2), q * (900 + h % 100000 / 100.0)::numeric(15,2),
		((h % 11) / 100.0)::numeric(15,2), ((h % 9) / 100.0)::numeric(15,2),
		substr('ANR', 1 + (h % 3)::int, 1), substr('OF', 1 + (h % 2)::int, 1),
		d, d + (h / 5 % 60)::int - 30, d + 1 + (h / 11 % 30)::int,
		(ARRAY['DELIVER IN PERSON', 'COLLECT COD', 'NONE', 'TAKE BACK RETURN'])[1 + h % 4],
		(ARRAY['REG AIR', 'AIR', 'RAIL', 'SHIP', 'TRUCK', 'MAIL', 'FOB'])[1 + h % 7],
		substr('furiously even deposits sleep, carefully bold requests wake blithely across the '
			'slyly final accounts; quick packages nag', 1 + (h % 60)::int, 10 + (h / 3 % 34)::int)
	FROM generate_series(0, n - 1) i,
		LATERAL (SELECT abs(hashint8(i)::bigint) AS h) a,
		LATERAL (SELECT 1 + h % 50 AS q, date '1992-01-01' + (h % 2500)::int AS d) b
$$;
