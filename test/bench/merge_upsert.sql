-- A table of :rows customers; shape pkey, or more: one more index, on a column
-- that a fifth of the changes concerns.

CREATE TABLE dim (
	customer_id bigint NOT NULL,
	name text,
	email text,
	phone text,
	city text,
	segment text,
	region_id int,
	loyalty_level int,
	credit_limit numeric(12, 2),
	signed_up_at timestamptz
) WITH (fillfactor = :fillfactor);

INSERT INTO dim SELECT * FROM customers(:rows, 0);

ALTER TABLE dim ADD PRIMARY KEY (customer_id);
SELECT :'shape' = 'more' AS more \gset
\if :more
CREATE INDEX ON dim (email);
\endif

VACUUM ANALYZE dim;
