\set ECHO none
SET client_min_messages = warning;
DROP SCHEMA etl_test CASCADE;
DROP EXTENSION etl_patterns;
COPY (SELECT 1 WHERE false) TO PROGRAM 'chmod -R u+rwx etl_test; rm -rf etl_test';
