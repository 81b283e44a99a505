\echo Use "CREATE EXTENSION etl_patterns" to load this file. \quit

-- The state has a schema of its own, whatever schema the functions go to.
-- CREATE SCHEMA without IF NOT EXISTS: a schema that somebody else made, and
-- could put objects into, must not become ours.
CREATE SCHEMA etl_patterns;
COMMENT ON SCHEMA etl_patterns IS
    'state of the etl_patterns extension: what ran, how far, what was rejected';
GRANT USAGE ON SCHEMA etl_patterns TO PUBLIC;
