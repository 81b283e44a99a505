CREATE FUNCTION etl_csv_infer(
    source text,
    header text DEFAULT 'match',
    delimiter text DEFAULT ',',
    quote text DEFAULT '"',
    escape text DEFAULT NULL,
    null_strings text[] DEFAULT '{""}',
    "trim" boolean DEFAULT false,
    skip_lines int DEFAULT 0,
    encoding name DEFAULT NULL,
    compression text DEFAULT 'auto',
    sample_rows bigint DEFAULT 100000,
    OUT column_name text,
    OUT data_type text,
    OUT nullable boolean,
    OUT example text)
RETURNS SETOF record
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 20;
COMMENT ON FUNCTION etl_csv_infer IS
    'the columns of a CSV file of the server, with the types that its first rows fit';

CREATE FUNCTION etl_create_table_from_csv(
    target text,
    source text,
    header text DEFAULT 'match',
    delimiter text DEFAULT ',',
    quote text DEFAULT '"',
    escape text DEFAULT NULL,
    null_strings text[] DEFAULT '{""}',
    "trim" boolean DEFAULT false,
    skip_lines int DEFAULT 0,
    encoding name DEFAULT NULL,
    compression text DEFAULT 'auto',
    sample_rows bigint DEFAULT 100000)
RETURNS regclass
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_create_table_from_csv IS
    'creates a table with the columns that etl_csv_infer() finds';
