CREATE FUNCTION etl_alert_drain(n int DEFAULT 100)
RETURNS SETOF etl_patterns.alert
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_alert_drain IS
    'deletes and returns the oldest alerts of the caller''s jobs and pipelines, those aside that another session drains';
