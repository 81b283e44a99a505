--
-- What CREATE EXTENSION brings, and what DROP EXTENSION leaves.
--
CREATE EXTENSION etl_patterns;

-- State lives in a schema of its own, whatever schema the functions are in.
SELECT extname, extrelocatable, n.nspname AS schema
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE extname = 'etl_patterns';
SELECT n.nspname, c.relkind, c.relname
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'etl_patterns' AND c.relkind IN ('r', 'p', 'v', 'S')
ORDER BY c.relkind, c.relname COLLATE "C";

-- The public functions, each with a comment.
\pset format unaligned
\pset tuples_only on
SELECT p.proname || ': ' || coalesce(obj_description(p.oid, 'pg_proc'), '(no comment)')
FROM pg_proc p JOIN pg_depend d
  ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
WHERE e.extname = 'etl_patterns' AND p.pronamespace = e.extnamespace
ORDER BY p.proname COLLATE "C", p.oid;
\pset tuples_only off
\pset format aligned

-- Every public function starts with etl_, and none lends its owner's rights
-- with a search path that its caller chose.
SELECT p.oid::regprocedure
FROM pg_proc p JOIN pg_depend d
  ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
WHERE e.extname = 'etl_patterns'
  AND (p.proname !~ '^etl_'
       OR p.prosecdef AND NOT coalesce(array_to_string(p.proconfig, ',') ~ 'search_path', false));

-- Tables and sequences of the ledger go with pg_dump.
SELECT c.oid::regclass AS not_dumped
FROM pg_class c, pg_extension e
WHERE e.extname = 'etl_patterns' AND c.relnamespace = 'etl_patterns'::regnamespace
  AND c.relkind IN ('r', 'p', 'S') AND NOT c.oid = ANY (coalesce(e.extconfig, '{}'));

-- Nobody but the owner writes them.
SELECT c.oid::regclass AS writable, a.privilege_type
FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace = 'etl_patterns'::regnamespace AND c.relkind IN ('r', 'p', 'S')
  AND a.grantee <> c.relowner AND a.privilege_type NOT IN ('SELECT');

-- Removed, it leaves nothing.
DROP EXTENSION etl_patterns;
SELECT nspname FROM pg_namespace WHERE nspname = 'etl_patterns';
SELECT oid::regprocedure FROM pg_proc WHERE probin LIKE '%etl_patterns%';

-- The functions go where the user says.
CREATE SCHEMA "Odd ""schema""";
CREATE EXTENSION etl_patterns SCHEMA "Odd ""schema""";
SELECT DISTINCT n.nspname
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.proname LIKE 'etl\_%';
ALTER EXTENSION etl_patterns SET SCHEMA public;
DROP EXTENSION etl_patterns;
DROP SCHEMA "Odd ""schema""";

-- It does not take over a schema that somebody else made.
CREATE SCHEMA etl_patterns;
\set SHOW_CONTEXT never
CREATE EXTENSION etl_patterns;
DROP SCHEMA etl_patterns;
