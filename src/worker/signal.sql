CREATE FUNCTION etl_signal(event text, payload text DEFAULT NULL)
RETURNS int
AS 'MODULE_PATHNAME'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION etl_signal IS
    'starts the jobs "on" an event, when the transaction commits; returns how many';
