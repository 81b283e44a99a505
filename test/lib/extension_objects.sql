-- All that is to be known of the objects of the extension, as rows (object,
-- property, value).  Two installations are the same if the rows are: there are no
-- numbers in them that differ between databases.
WITH ext AS (
    SELECT * FROM pg_catalog.pg_extension WHERE extname = 'etl_patterns'
),
-- What the extension has, and of a type that stands for a table only the table.
member AS (
    SELECT d.classid, d.objid, i.type || ' ' || i.identity AS object
    FROM ext, pg_catalog.pg_depend d, pg_catalog.pg_identify_object(d.classid, d.objid, 0) i
    WHERE d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.refobjid = ext.oid AND d.deptype = 'e'
),
-- Its relations with their indexes, and whatever else is in its schema.
relation AS (
    SELECT c.*, i.type || ' ' || i.identity AS object
    FROM pg_catalog.pg_class c, pg_catalog.pg_identify_object('pg_catalog.pg_class'::regclass, c.oid, 0) i
    WHERE c.relnamespace = 'etl_patterns'::regnamespace
        OR EXISTS (SELECT FROM member m WHERE m.classid = 'pg_catalog.pg_class'::regclass AND m.objid = c.oid)
),
fact AS (
    SELECT 'the extension' AS object, property, value
    FROM ext, LATERAL (VALUES
        ('version', extversion),
        ('schema', extnamespace::regnamespace::text),
        ('owner', extowner::regrole::text),
        ('relocatable', extrelocatable::text)) v (property, value)
    UNION ALL
    SELECT c.object, 'is dumped', 'WHERE: ' || e.condition
    FROM ext, LATERAL unnest(extconfig, extcondition) e (relation, condition) JOIN relation c ON c.oid = e.relation
    UNION ALL
    SELECT object, 'belongs to', 'the extension' FROM member

    UNION ALL
    SELECT m.object, property, value
    FROM member m JOIN pg_catalog.pg_namespace n ON m.classid = 'pg_catalog.pg_namespace'::regclass AND n.oid = m.objid,
    LATERAL (VALUES
        ('owner', nspowner::regrole::text),
        ('privileges', nspacl::text)) v (property, value)
    UNION ALL
    SELECT m.object, property, value
    FROM member m JOIN pg_catalog.pg_proc p ON m.classid = 'pg_catalog.pg_proc'::regclass AND p.oid = m.objid,
    LATERAL (VALUES
        ('definition', CASE WHEN p.prokind IN ('f', 'p', 'w') THEN pg_catalog.pg_get_functiondef(p.oid) END),
        ('source', prosrc),
        ('library', probin),
        ('settings', proconfig::text),
        ('owner', proowner::regrole::text),
        ('privileges', proacl::text)) v (property, value)

    UNION ALL
    SELECT object, property, value
    FROM relation c LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam,
    LATERAL (VALUES
        ('kind', relkind::text),
        ('persistence', relpersistence::text),
        ('access method', a.amname),
        ('owner', relowner::regrole::text),
        ('privileges', relacl::text),
        ('row security', relrowsecurity || ', forced ' || relforcerowsecurity),
        ('options', reloptions::text),
        ('replica identity', relreplident::text),
        ('tablespace', NULLIF(reltablespace, 0)::text),
        ('query', CASE WHEN relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(c.oid) END)) v (property, value)
    UNION ALL
    SELECT c.object || ' column ' || attname, property, value
    FROM relation c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        LEFT JOIN pg_catalog.pg_collation o ON o.oid = a.attcollation,
    LATERAL (VALUES
        ('place', attnum::text),
        ('type', pg_catalog.format_type(atttypid, atttypmod)),
        ('collation', collname),
        ('not null', attnotnull::text),
        ('default', pg_catalog.pg_get_expr(adbin, adrelid)),
        ('identity, generated', format('%s, %s', attidentity, attgenerated)),
        ('storage', format('%s, %s', attstorage, attcompression)),
        ('statistics', NULLIF(attstattarget, -1)::text),
        -- (but for a count that PostgreSQL keeps there)
        ('options', (SELECT array_agg(o)::text FROM unnest(attoptions) o WHERE o NOT LIKE 'pg\_attver=%')),
        ('privileges', attacl::text)) v (property, value)
    WHERE c.relkind <> 'i'
    UNION ALL
    SELECT c.object, 'constraint ' || conname,
        pg_catalog.pg_get_constraintdef(k.oid) || CASE WHEN convalidated THEN '' ELSE ' not valid' END
    FROM relation c JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid
    UNION ALL
    SELECT c.object, property, value
    FROM relation c JOIN pg_catalog.pg_index x ON x.indexrelid = c.oid,
    LATERAL (VALUES
        ('definition', pg_catalog.pg_get_indexdef(indexrelid)),
        ('valid', indisvalid::text),
        ('for', concat_ws(', ', CASE WHEN indisprimary THEN 'primary key' END,
            CASE WHEN indisclustered THEN 'CLUSTER' END, CASE WHEN indisreplident THEN 'replica identity' END)))
        v (property, value)
    UNION ALL
    SELECT c.object, 'policy ' || polname,
        concat_ws(' | ', polcmd, polpermissive, polroles::regrole[]::text,
            pg_catalog.pg_get_expr(polqual, polrelid), pg_catalog.pg_get_expr(polwithcheck, polrelid))
    FROM relation c JOIN pg_catalog.pg_policy p ON p.polrelid = c.oid
    UNION ALL
    SELECT c.object, 'trigger ' || tgname, pg_catalog.pg_get_triggerdef(t.oid) || ' ' || tgenabled::text
    FROM relation c JOIN pg_catalog.pg_trigger t ON t.tgrelid = c.oid
    UNION ALL
    SELECT c.object, 'rule ' || rulename, pg_catalog.pg_get_ruledef(r.oid) || ' ' || ev_enabled::text
    FROM relation c JOIN pg_catalog.pg_rewrite r ON r.ev_class = c.oid
    UNION ALL
    SELECT c.object, 'numbers', concat_ws(' | ', format_type(seqtypid, NULL), seqstart, seqincrement, seqmin, seqmax, seqcache, seqcycle)
    FROM relation c JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
    UNION ALL
    SELECT c.object, 'belongs to column', pg_catalog.pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
    FROM relation c JOIN pg_catalog.pg_depend d
        ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i') AND c.relkind = 'S'

    UNION ALL
    SELECT m.object, property, value
    FROM member m JOIN pg_catalog.pg_type t ON m.classid = 'pg_catalog.pg_type'::regclass AND t.oid = m.objid,
    LATERAL (VALUES
        ('kind', typtype::text),
        ('owner', typowner::regrole::text),
        ('privileges', typacl::text),
        ('base', concat_ws(' | ', format_type(NULLIF(typbasetype, 0), typtypmod), typnotnull, typdefault)),
        ('labels', (SELECT array_agg(enumlabel ORDER BY enumsortorder)::text FROM pg_catalog.pg_enum WHERE enumtypid = t.oid)),
        ('constraints', (SELECT array_agg(pg_get_constraintdef(k.oid) ORDER BY conname)::text FROM pg_catalog.pg_constraint k WHERE contypid = t.oid)))
        v (property, value)

    UNION ALL
    SELECT o.type || ' ' || o.identity, 'comment', description
    FROM pg_catalog.pg_description d, pg_catalog.pg_identify_object(classoid, objoid, objsubid) o
    WHERE EXISTS (SELECT FROM member m WHERE (m.classid, m.objid) = (d.classoid, d.objoid))
        OR (classoid = 'pg_catalog.pg_class'::regclass AND EXISTS (SELECT FROM relation c WHERE c.oid = objoid))
        OR (classoid = 'pg_catalog.pg_extension'::regclass AND objoid = (SELECT oid FROM ext))
        OR (classoid = 'pg_catalog.pg_constraint'::regclass AND EXISTS
            (SELECT FROM pg_catalog.pg_constraint k JOIN relation c ON c.oid = k.conrelid WHERE k.oid = objoid))
        OR (classoid = 'pg_catalog.pg_policy'::regclass AND EXISTS
            (SELECT FROM pg_catalog.pg_policy p JOIN relation c ON c.oid = p.polrelid WHERE p.oid = objoid))
    -- What pg_dump takes for granted: it does not dump these privileges.
    UNION ALL
    SELECT o.type || ' ' || o.identity, 'privileges by the script', initprivs::text
    FROM pg_catalog.pg_init_privs p, pg_catalog.pg_identify_object(classoid, objoid, objsubid) o
    WHERE EXISTS (SELECT FROM member m WHERE (m.classid, m.objid) = (p.classoid, p.objoid))

    -- Of other kinds nothing is compared but that they are there.
    UNION ALL
    SELECT object, 'kind', 'unknown to test/lib/extension_objects.sql: teach it what is to be compared'
    FROM member
    WHERE classid NOT IN ('pg_catalog.pg_namespace'::regclass, 'pg_catalog.pg_proc'::regclass,
        'pg_catalog.pg_class'::regclass, 'pg_catalog.pg_type'::regclass)
)
SELECT object || ': ' || property || ': ' || regexp_replace(value, '\s+', ' ', 'g') AS line
FROM fact WHERE value <> ''
ORDER BY (object || property || value) COLLATE "C"
