CREATE FUNCTION etl_scd2_create(
    target text,
    source regclass,
    keys name[],
    tracked name[] DEFAULT NULL,
    overwrite name[] DEFAULT NULL,
    fixed name[] DEFAULT NULL,
    previous jsonb DEFAULT NULL,
    valid_from name DEFAULT 'valid_from',
    valid_to name DEFAULT 'valid_to',
    is_current name DEFAULT 'is_current',
    time_type regtype DEFAULT 'timestamptz',
    open_end text DEFAULT NULL,
    bounds text DEFAULT '[)',
    surrogate_key name DEFAULT NULL)
RETURNS regclass
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_scd2_create IS
    'creates a table for the versions of a source''s rows, as etl_scd2_merge() fills it';

CREATE FUNCTION etl_scd2_verify(
    target regclass,
    keys name[],
    valid_from name DEFAULT 'valid_from',
    valid_to name DEFAULT 'valid_to',
    is_current name DEFAULT 'is_current',
    tracked name[] DEFAULT NULL,
    bounds text DEFAULT '[)',
    open_end text DEFAULT NULL,
    gaps boolean DEFAULT false)
RETURNS TABLE (problem text, key jsonb, detail text)
AS 'MODULE_PATHNAME'
LANGUAGE C STABLE PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION etl_scd2_verify IS
    'what is wrong with the versions of a dimension: overlaps, two open ones, equal neighbours and more';
