CREATE FUNCTION etl_watermark_get(pipeline text)
RETURNS text
AS 'MODULE_PATHNAME'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_watermark_get IS
    'the value that a pipeline has reached, or null if it has none';

CREATE FUNCTION etl_watermark_set(pipeline text, value text)
RETURNS void
AS 'MODULE_PATHNAME'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_watermark_set IS
    'sets the value that a pipeline goes on from';

CREATE FUNCTION etl_watermark_reset(pipeline text)
RETURNS boolean
AS 'MODULE_PATHNAME'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_watermark_reset IS
    'forgets a pipeline, so that its next run starts from the beginning';
