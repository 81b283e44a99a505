-- A dimension of :rows customers with :versions versions each, the last one
-- open, in one of three shapes:
--   create   what etl_scd2_create makes
--   partial  the open versions indexed
--   pkey     nothing but the surrogate key

CREATE TABLE dim (
	dim_id bigint GENERATED ALWAYS AS IDENTITY,
	customer_id bigint NOT NULL,
	name text,
	email text,
	phone text,
	city text,
	segment text,
	region_id int,
	loyalty_level int,
	credit_limit numeric(12, 2),
	signed_up_at timestamptz,
	valid_from timestamptz NOT NULL,
	valid_to timestamptz,
	is_current boolean NOT NULL
);

SELECT :'shape' = 'create' AS create, :'shape' = 'partial' AS partial \gset
\if :create
ALTER TABLE dim SET (fillfactor = 90);
\endif

INSERT INTO dim (customer_id, name, email, phone, city, segment, region_id, loyalty_level, credit_limit,
	signed_up_at, valid_from, valid_to, is_current)
SELECT c.*, timestamptz '2024-01-01 00:00+00' - v * interval '1 month',
	CASE WHEN v > 0 THEN timestamptz '2024-01-01 00:00+00' - (v - 1) * interval '1 month' END, v = 0
FROM generate_series(:versions - 1, 0, -1) v, customers(:rows, -v) c;

ALTER TABLE dim ADD PRIMARY KEY (dim_id);
\if :create
ALTER TABLE dim ADD UNIQUE (customer_id, valid_from);
\endif
\if :partial
CREATE UNIQUE INDEX ON dim (customer_id) WHERE is_current;
\endif

VACUUM ANALYZE dim;
