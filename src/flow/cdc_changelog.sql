CREATE FUNCTION etl_cdc_create_changelog(target text)
RETURNS regclass
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_cdc_create_changelog IS
    'creates a table for one row per change of a source, for apply => ''changelog''';
