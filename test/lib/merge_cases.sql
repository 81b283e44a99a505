-- Random merges, and whether the extension does what merge_reference.sql says.
-- A case is drawn from a seed and its number; what is wrong goes to
-- reference.problem.  To see one case again:
--
--   CALL reference.check_scd2(seed, number, 1);  SELECT * FROM reference.problem;

SET client_min_messages = warning;
CREATE TABLE reference.problem (seed int, number int, shape text, path text, what text, details text);

CREATE FUNCTION reference.chance(p float8) RETURNS boolean LANGUAGE sql VOLATILE AS
    $$ SELECT random() < p $$;
CREATE FUNCTION reference.upto(n int) RETURNS int LANGUAGE sql VOLATILE AS
    $$ SELECT floor(random() * (n + 1))::int $$;
CREATE FUNCTION reference.pick(VARIADIC words text[]) RETURNS text LANGUAGE sql VOLATILE AS
    $$ SELECT words[1 + floor(random() * cardinality(words))::int] $$;
CREATE FUNCTION reference.start(seed int, number int) RETURNS void LANGUAGE sql VOLATILE AS
    $$ SELECT setseed(((seed::bigint * 7919 + number::bigint * 104729) % 999983) / 999983.0) $$;

-- Times of the cases are whole days, so that dates can tell them apart.
CREATE FUNCTION reference.day(n int) RETURNS timestamp LANGUAGE sql IMMUTABLE AS
    $$ SELECT timestamp '2020-01-01' + n * interval '1 day' $$;

-- ---------------------------------------------------------------------------
-- Targets of etl_scd2_merge
-- ---------------------------------------------------------------------------

CREATE FUNCTION reference.nothing() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RETURN coalesce(NEW, OLD); END $$;

-- Shapes differ in what makes a merge take another way.
CREATE TABLE reference.shape (shape text, dates boolean, has_current boolean, source text);
INSERT INTO reference.shape VALUES
    ('plain', false, true, 'batch'),
    ('partial', false, true, 'batch_cast'),
    ('bare', false, false, 'batch'),
    ('exclude', false, true, 'batch'),
    ('hashed', false, true, 'batch'),
    ('listed', false, true, 'batch_cast'),
    ('triggers', false, true, 'batch'),
    ('zoned', false, true, 'batch'),
    ('dates', true, true, 'batch_date');

CREATE TABLE reference.plain (sk bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    k int, k2 text, a text, b numeric, o text, f text, p text, prev_a text, kept text DEFAULT 'default',
    valid_from timestamp NOT NULL, valid_to timestamp, is_current boolean NOT NULL,
    UNIQUE (k, k2, valid_from), CHECK (valid_from < valid_to)) WITH (fillfactor = 90);

CREATE TABLE reference.partial (gone int, is_current boolean NOT NULL, valid_to timestamp, valid_from timestamp,
    kept text DEFAULT 'default', prev_a text, p text, f text, o text, b numeric, a text, k2 text, k int,
    both_keys text GENERATED ALWAYS AS (k2 || '/' || a) STORED);
ALTER TABLE reference.partial DROP COLUMN gone;
CREATE UNIQUE INDEX ON reference.partial (k, k2) WHERE is_current;
CREATE INDEX ON reference.partial (valid_from, valid_to);

CREATE TABLE reference.bare (k int, k2 text, a text, b numeric, o text, f text, p text, prev_a text,
    kept text DEFAULT 'default', valid_from timestamp, valid_to timestamp);

-- Keys are single characters here: one number stands for both of them.
CREATE TABLE reference.exclude (LIKE reference.plain INCLUDING DEFAULTS, EXCLUDE USING gist
    (int4range(k * 1000 + ascii(k2), k * 1000 + ascii(k2), '[]') WITH &&, tsrange(valid_from, valid_to) WITH &&));
ALTER TABLE reference.exclude DROP COLUMN sk;

CREATE TABLE reference.hashed (LIKE reference.partial INCLUDING DEFAULTS, UNIQUE (k, valid_from, k2))
    PARTITION BY HASH (k);
CREATE TABLE reference.hashed_0 PARTITION OF reference.hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE reference.hashed_1 (LIKE reference.plain INCLUDING DEFAULTS);
ALTER TABLE reference.hashed_1 DROP COLUMN sk, ADD COLUMN both_keys text;
ALTER TABLE reference.hashed_1 ALTER valid_from DROP NOT NULL;
ALTER TABLE reference.hashed ATTACH PARTITION reference.hashed_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);

CREATE TABLE reference.listed (LIKE reference.exclude INCLUDING DEFAULTS) PARTITION BY LIST (is_current);
CREATE TABLE reference.listed_current PARTITION OF reference.listed FOR VALUES IN (true);
CREATE TABLE reference.listed_history PARTITION OF reference.listed FOR VALUES IN (false);
CREATE UNIQUE INDEX ON reference.listed_current (k, k2);

CREATE TABLE reference.triggers (LIKE reference.plain INCLUDING ALL);
CREATE TRIGGER before_row BEFORE INSERT OR UPDATE OR DELETE ON reference.triggers
    FOR EACH ROW EXECUTE FUNCTION reference.nothing();
CREATE TRIGGER after_row AFTER INSERT OR UPDATE OR DELETE ON reference.triggers
    FOR EACH ROW EXECUTE FUNCTION reference.nothing();

CREATE TABLE reference.zoned (LIKE reference.exclude INCLUDING DEFAULTS);
ALTER TABLE reference.zoned ALTER valid_from TYPE timestamptz, ALTER valid_to TYPE timestamptz;
CREATE INDEX ON reference.zoned (k);

CREATE TABLE reference.dates (LIKE reference.exclude INCLUDING DEFAULTS);
ALTER TABLE reference.dates ALTER valid_from TYPE date, ALTER valid_to TYPE date,
    ALTER valid_to SET DEFAULT '9999-12-31', ADD UNIQUE (k, k2, valid_to), ADD CHECK (valid_from <= valid_to);

-- The same rows in other types, so that they come by a query.
CREATE VIEW reference.batch_cast AS
    SELECT del, k::bigint, k2::varchar(10), a::varchar, b::numeric(10, 2), o, f, p, ts::timestamptz, ord
    FROM reference.batch;
CREATE VIEW reference.batch_date AS SELECT k, k2, a, b, o, f, p, ts::date, del, ord FROM reference.batch;

-- ---------------------------------------------------------------------------
-- Random cases of etl_scd2_merge
-- ---------------------------------------------------------------------------

-- Fills reference.stored and reference.batch and draws the options.
CREATE FUNCTION reference.make_scd2(seed int, number int) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    s reference.stored;
    previous reference.stored;
    e reference.batch;
    sequenced boolean;
    deletes boolean;
    in_order boolean;       -- no late rows: then the kept column may vary
    snapshot boolean;
    null_keys text;
    day int;
    rows int;
    truth int;
BEGIN
    PERFORM reference.start(seed, number);
    truth := 21 + reference.upto(5);
    sequenced := reference.chance(0.75);
    deletes := reference.chance(0.7);
    snapshot := reference.chance(0.25);
    in_order := reference.chance(0.3) AND NOT snapshot;
    null_keys := reference.pick('error', 'dead_letter');
    IF NOT sequenced AND NOT snapshot THEN
        truth := 5 + reference.upto(20);
    END IF;

    DELETE FROM reference.stored;
    FOR key IN 1 .. 5 LOOP
        s := NULL;
        s.k := key;
        s.k2 := reference.pick('x', 'y');
        s.o := reference.pick('o1', 'o2', NULL);
        s.f := reference.pick('f1', 'f2', NULL);
        s.kept := reference.pick('kept', 'k', NULL);
        day := reference.upto(6);
        previous := NULL;
        FOR i IN 1 .. reference.pick('0', '1', '2', '3', '4', '4')::int LOOP
            s.valid_from := reference.day(day);
            LOOP
                s.a := reference.pick('A', 'B', 'C', NULL);
                s.b := reference.pick('1', '2', NULL)::numeric;
                EXIT WHEN previous.valid_to IS DISTINCT FROM s.valid_from
                    OR s.a IS DISTINCT FROM previous.a OR s.b IS DISTINCT FROM previous.b;
            END LOOP;
            s.prev_a := CASE WHEN i = 1 THEN NULL
                             WHEN s.a IS DISTINCT FROM previous.a THEN previous.a
                             ELSE previous.prev_a END;
            s.p := reference.pick('p1', 'p2', NULL);
            IF in_order THEN
                s.kept := 'kept' || i;
            END IF;
            day := day + 1 + reference.upto(3);
            s.valid_to := reference.day(day);
            IF reference.chance(0.2) THEN
                day := day + 1 + reference.upto(2);
            END IF;
            INSERT INTO reference.stored SELECT s.*;
            previous := s;
        END LOOP;
        IF reference.chance(0.7) THEN
            UPDATE reference.stored SET valid_to = NULL
            WHERE k = key AND valid_from = previous.valid_from;
        END IF;
    END LOOP;

    -- now and then, equal neighbours that nothing touches
    IF reference.chance(0.1) THEN
        INSERT INTO reference.stored
        SELECT 9, 'x', 'A', 1, 'o1', 'f1', 'p', NULL, 'kept9', reference.day(n),
            CASE WHEN n < 2 THEN reference.day(n + 1) END
        FROM generate_series(0, 2) n;
        UPDATE reference.stored SET a = 'Z', prev_a = 'A' WHERE k = 9 AND valid_to IS NULL;
    END IF;

    TRUNCATE reference.batch;
    rows := reference.upto(reference.pick('4', '12', '30')::int) + CASE WHEN snapshot THEN 2 ELSE 0 END;
    FOR i IN 1 .. rows LOOP
        e := NULL;
        e.k := 1 + reference.upto(CASE WHEN reference.chance(0.2) THEN 6 ELSE 4 END);
        SELECT k2 INTO e.k2 FROM reference.stored WHERE k = e.k LIMIT 1;
        e.k2 := CASE WHEN e.k2 IS NULL OR reference.chance(0.1) THEN reference.pick('x', 'y') ELSE e.k2 END;
        e.ts := reference.day(reference.upto(20));
        e.a := reference.pick('A', 'B', 'C', NULL);
        e.b := reference.pick('1', '2', '1.00', NULL)::numeric;
        e.o := reference.pick('o1', 'o2', NULL);
        e.f := reference.pick('f1', 'f2', NULL);
        e.p := reference.pick('p1', 'p2', NULL);
        e.del := CASE WHEN reference.chance(0.2) THEN true WHEN reference.chance(0.1) THEN NULL ELSE false END;
        -- what is stored already: at its time, at another, or of late; and
        -- something else at the time where a version starts or ends
        SELECT * INTO s FROM reference.stored WHERE k = e.k AND k2 = e.k2 ORDER BY random() LIMIT 1;
        IF FOUND AND reference.chance(0.4) THEN
            e.a := s.a;
            e.b := s.b;
            e.o := CASE WHEN reference.chance(0.6) THEN s.o ELSE e.o END;
            e.ts := CASE WHEN reference.chance(0.5) THEN s.valid_from
                         WHEN s.valid_to IS NULL THEN s.valid_from + reference.upto(3) * interval '1 day'
                         ELSE e.ts END;
        ELSIF s.k IS NOT NULL AND reference.chance(0.25) THEN
            e.ts := CASE WHEN s.valid_to IS NULL OR reference.chance(0.5) THEN s.valid_from ELSE s.valid_to END;
        END IF;
        e.ord := i;
        INSERT INTO reference.batch SELECT e.*;
        -- the same row again, or another of its key and time
        IF reference.chance(0.12) AND NOT snapshot THEN
            e.ord := i + 100;
            INSERT INTO reference.batch SELECT e.*;
        END IF;
        IF reference.chance(0.06) AND NOT snapshot THEN
            e.a := reference.pick('D', e.a);
            e.p := 'other';
            e.ord := i + 200;
            INSERT INTO reference.batch SELECT e.*;
        END IF;
        IF reference.chance(0.03) AND null_keys = 'dead_letter' THEN
            e.ord := i + 300;
            CASE reference.pick('k', 'k2', 'ts')
                WHEN 'k' THEN e.k := NULL;
                WHEN 'k2' THEN e.k2 := NULL;
                ELSE IF sequenced AND NOT snapshot THEN e.ts := NULL; ELSE e.k := NULL; END IF;
            END CASE;
            INSERT INTO reference.batch SELECT e.*;
        END IF;
    END LOOP;

    IF snapshot THEN
        -- one row of each key, none of them late; what is closed comes back
        -- as it was
        DELETE FROM reference.batch b USING reference.batch c
        WHERE b.k = c.k AND b.k2 = c.k2 AND b.ord > c.ord;
        IF NOT deletes THEN
            UPDATE reference.batch SET del = false;
        END IF;
        UPDATE reference.batch b SET
            ts = CASE WHEN l.valid_to IS NULL AND reference.chance(0.7) THEN greatest(b.ts, l.valid_from)
                      ELSE l.valid_from END,
            a = CASE WHEN l.valid_to IS NULL THEN b.a ELSE l.a END,
            b = CASE WHEN l.valid_to IS NULL THEN b.b ELSE l.b END,
            del = CASE WHEN l.valid_to IS NULL THEN b.del ELSE false END
        FROM (SELECT DISTINCT ON (k, k2) * FROM reference.stored ORDER BY k, k2, valid_from DESC) l
        WHERE b.k = l.k AND b.k2 = l.k2;
        INSERT INTO reference.batch
        VALUES (8, reference.pick('x', 'y'), 'A', 1, 'o1', 'f1', 'p1', reference.day(truth), false, 500);
    END IF;
    IF NOT sequenced THEN
        UPDATE reference.batch SET ts = reference.day(truth);
    END IF;
    IF NOT deletes THEN
        UPDATE reference.batch SET del = false;
    END IF;
    UPDATE reference.batch SET del = false WHERE del IS NULL AND NOT reference.chance(0.5);
    IF in_order THEN
        DELETE FROM reference.batch b USING (SELECT k, k2, max(coalesce(valid_to, valid_from)) AS boundary
                                             FROM reference.stored GROUP BY k, k2) l
        WHERE b.k = l.k AND b.k2 = l.k2 AND b.ts <= l.boundary;
    END IF;

    -- The order of a scan is that of ord: no row may lie in an old place.
    CREATE TEMP TABLE IF NOT EXISTS ordered (LIKE reference.batch);
    DELETE FROM ordered;
    INSERT INTO ordered
    SELECT k, k2, a, b, o, f, p, ts, del,
        row_number() OVER (ORDER BY CASE WHEN number % 2 = 0 THEN random() ELSE ord END)
    FROM reference.batch;
    TRUNCATE reference.batch;
    INSERT INTO reference.batch SELECT * FROM ordered ORDER BY ord;

    RETURN jsonb_build_object(
        'sequence', sequenced, 'deletes', deletes,
        'truth_at', coalesce((SELECT max(ts) FROM reference.batch
                              WHERE snapshot AND sequenced AND k IS NOT NULL AND k2 IS NOT NULL),
                             reference.day(truth)),
        'absent', CASE WHEN snapshot THEN 'close' ELSE 'ignore' END,
        'scope', CASE WHEN snapshot AND reference.chance(0.4) THEN 'k2' END,
        'duplicates', CASE WHEN reference.chance(0.2) THEN 'error' ELSE reference.pick('last', 'dead_letter') END,
        'null_keys', null_keys,
        'late', CASE WHEN reference.chance(0.7) OR snapshot THEN 'weave' ELSE reference.pick('ignore', 'dead_letter') END,
        'shapes', (SELECT jsonb_agg(shape) FROM (SELECT shape FROM reference.shape ORDER BY random() LIMIT 3) x));
END
$$;

-- The call of a case on a shape.
CREATE FUNCTION reference.scd2_call(sh reference.shape, options jsonb, change_log boolean DEFAULT false)
RETURNS text LANGUAGE sql AS $$
    SELECT format('SELECT rows_read, inserted, opened, closed, corrected, overwritten, unchanged, deleted, revived,'
                  ' late, duplicates, rejected FROM etl_scd2_merge(%L, %L, keys => %L, sequence_by => %L,'
                  ' effective_at => %L, tracked => %L, overwrite => %L, fixed => %L, previous => %L,'
                  ' delete_when => %L, absent => %L, absent_scope => %L, duplicates => %L, null_keys => %L,'
                  ' late => %L, change_log => %L, is_current => %L, open_end => %L, bounds => %L)',
                  'reference.' || sh.shape, 'reference.' || sh.source, '{k,k2}',
                  CASE WHEN (options->>'sequence')::boolean THEN 'ts' END,
                  CASE WHEN NOT (options->>'sequence')::boolean
                       THEN CASE WHEN sh.dates THEN (options->>'truth_at')::date::text
                                 ELSE options->>'truth_at' END END,
                  '{a,b}', '{o}', '{f}', '{"a": "prev_a"}',
                  CASE WHEN (options->>'deletes')::boolean THEN 'del' END,
                  options->>'absent', '{' || (options->>'scope') || '}',
                  options->>'duplicates', options->>'null_keys', options->>'late', change_log,
                  CASE WHEN sh.has_current THEN 'is_current' END,
                  CASE WHEN sh.dates THEN '9999-12-31' END,
                  CASE WHEN sh.dates THEN '[]' ELSE '[)' END)
$$;

-- Puts reference.stored into a target.
CREATE FUNCTION reference.load_scd2(sh reference.shape) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('DELETE FROM reference.%I', sh.shape);
    EXECUTE format('INSERT INTO reference.%I (k, k2, a, b, o, f, p, prev_a, kept, valid_from, valid_to%s)'
                   ' SELECT k, k2, a, b, o, f, p, prev_a, kept, valid_from, %s%s FROM reference.stored'
                   ' ORDER BY md5(k || k2 || valid_from)',
                   sh.shape, CASE WHEN sh.has_current THEN ', is_current' ELSE '' END,
                   CASE WHEN sh.dates THEN $q$coalesce(valid_to - interval '1 day', '9999-12-31')$q$
                        ELSE 'valid_to' END,
                   CASE WHEN sh.has_current THEN ', valid_to IS NULL' ELSE '' END);
END
$$;

-- What the target holds, as reference.expected has it, and what is wrong.
CREATE FUNCTION reference.compare_scd2(sh reference.shape, expected regclass DEFAULT 'reference.expected')
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    ours text;
    theirs text;
    result text;
BEGIN
    ours := format('SELECT k, k2, a, b, o, f, p, prev_a, kept, valid_from::timestamp AS valid_from,'
                   ' %s::timestamp AS valid_to, %s AS is_current FROM reference.%I',
                   CASE WHEN sh.dates THEN $q$(nullif(valid_to, '9999-12-31') + 1)$q$ ELSE 'valid_to' END,
                   CASE WHEN sh.has_current THEN 'is_current' ELSE 'valid_to IS NULL' END, sh.shape);
    theirs := format('SELECT *, valid_to IS NULL FROM %s', expected);
    EXECUTE format('SELECT string_agg(line, E''\n'' ORDER BY line) FROM ('
                   ' (SELECT replace(t::text, '' 00:00:00'', '''') || '' is missing'' AS line FROM (%2$s EXCEPT ALL %1$s) t LIMIT 6) UNION ALL'
                   ' (SELECT replace(t::text, '' 00:00:00'', '''') || '' is wrong'' FROM (%1$s EXCEPT ALL %2$s) t LIMIT 6)) d',
                   ours, theirs) INTO result;
    RETURN result;
END
$$;

-- Where each row lies and who wrote it.
CREATE FUNCTION reference.places(tab text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE format('SELECT string_agg(tableoid || ctid::text || xmin, '' '' ORDER BY tableoid, ctid) FROM reference.%I', tab)
        INTO result;
    RETURN coalesce(result, '');
END
$$;

CREATE FUNCTION reference.verify(sh reference.shape) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE format('SELECT string_agg(v::text, E''\n'') FROM etl_scd2_verify(%L, keys => %L, is_current => %L,'
                   ' tracked => %L, bounds => %L, open_end => %L) v',
                   'reference.' || sh.shape, '{k,k2}', CASE WHEN sh.has_current THEN 'is_current' END, '{a,b}',
                   CASE WHEN sh.dates THEN '[]' ELSE '[)' END, CASE WHEN sh.dates THEN '9999-12-31' END)
        INTO result;
    RETURN result;
END
$$;

-- All that a case is made of.
CREATE FUNCTION reference.show_scd2(options jsonb) RETURNS text LANGUAGE sql AS $$
    SELECT options::text || E'\n'
        || coalesce((SELECT string_agg('stored ' || replace(s::text, ' 00:00:00', ''), E'\n' ORDER BY k, k2, valid_from)
                     FROM reference.stored s), 'nothing stored') || E'\n'
        || coalesce((SELECT string_agg('batch ' || replace(x::text, ' 00:00:00', ''), E'\n' ORDER BY k, k2, ts, ord)
                     FROM reference.batch x), 'nothing in the batch')
$$;

-- Does a second run of the batch change nothing?  Rarely it does: where a late
-- correction joined the last version with the one before, its row is the
-- newest then, and its overwrite columns count.  Where late rows are not woven
-- in, a delete may make one of them the newest.
CREATE FUNCTION reference.is_stable(options jsonb) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    result boolean;
BEGIN
    CREATE TEMP TABLE IF NOT EXISTS first_stored (LIKE reference.stored);
    CREATE TEMP TABLE IF NOT EXISTS first_expected (LIKE reference.stored);
    DELETE FROM first_stored;
    DELETE FROM first_expected;
    INSERT INTO first_stored SELECT * FROM reference.stored;
    INSERT INTO first_expected SELECT * FROM reference.expected;
    DELETE FROM reference.stored;
    INSERT INTO reference.stored SELECT * FROM first_expected;
    PERFORM reference.scd2(options);
    result := NOT EXISTS (SELECT * FROM reference.expected EXCEPT ALL SELECT * FROM first_expected);
    DELETE FROM reference.stored;
    INSERT INTO reference.stored SELECT * FROM first_stored;
    DELETE FROM reference.expected;
    INSERT INTO reference.expected SELECT * FROM first_expected;
    RETURN result;
END
$$;

-- One case on one shape by one path; returns what is wrong, or null.
CREATE FUNCTION reference.try_scd2(sh reference.shape, path text, options jsonb, expected reference.counts)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    c reference.counts;
    again reference.counts;
    before text;
    problem text;
    failed boolean := false;
    clean boolean;
BEGIN
    PERFORM set_config('etl_patterns.merge_path', path, false);
    PERFORM reference.load_scd2(sh);
    clean := NOT EXISTS (SELECT FROM reference.stored WHERE k = 9);
    before := reference.places(sh.shape);
    BEGIN
        EXECUTE reference.scd2_call(sh, options) INTO c;
    EXCEPTION WHEN OTHERS THEN
        IF expected IS NOT NULL OR SQLSTATE LIKE 'XX%' OR SQLSTATE LIKE '42%' OR SQLSTATE LIKE '0A%' THEN
            RETURN format('error %s: %s', SQLSTATE, SQLERRM);
        END IF;
        failed := true;
    END;
    IF expected IS NULL THEN
        IF NOT failed THEN
            RETURN 'it should be an error, but was ' || c;
        ELSIF reference.places(sh.shape) <> before THEN
            RETURN 'an error left traces';
        END IF;
        RETURN NULL;
    END IF;

    problem := reference.compare_scd2(sh);
    IF problem IS NOT NULL THEN
        RETURN problem;
    END IF;
    IF c IS DISTINCT FROM expected THEN
        RETURN format('counts are %s, not %s, of read, inserted, opened, closed, corrected, overwritten, unchanged,'
                      ' deleted, revived, late, duplicates, rejected', c, expected);
    END IF;
    IF clean THEN
        problem := reference.verify(sh);
        IF problem IS NOT NULL THEN
            RETURN 'etl_scd2_verify: ' || problem;
        END IF;
    END IF;

    IF (options->>'stable')::boolean THEN
        before := reference.places(sh.shape);
        BEGIN
            EXECUTE reference.scd2_call(sh, options) INTO again;
        EXCEPTION WHEN OTHERS THEN
            RETURN format('error in the second run: %s: %s', SQLSTATE, SQLERRM);
        END;
        IF reference.places(sh.shape) <> before THEN
            RETURN 'the second run wrote';
        END IF;
        IF (again.rows_read, again.inserted, again.opened, again.closed, again.corrected, again.overwritten,
            again.unchanged, again.deleted, again.revived, again.late, again.duplicates, again.rejected)
            IS DISTINCT FROM (c.rows_read, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint,
            c.rows_read - c.duplicates - c.rejected, 0::bigint, 0::bigint, 0::bigint, c.duplicates, c.rejected) THEN
            RETURN format('the second run counts %s after %s', again, c);
        END IF;
    END IF;
    RETURN NULL;
END
$$;

-- Cases first .. first + cases - 1.  A shape or a path may be asked for.
CREATE PROCEDURE reference.check_scd2(seed int, first int, cases int, only_shape text DEFAULT NULL,
                                      only_path text DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
    options jsonb;
    expected reference.counts;
    sh reference.shape;
    path text;
    what text;
BEGIN
    FOR number IN first .. first + cases - 1 LOOP
        options := reference.make_scd2(seed, number);
        BEGIN
            expected := reference.scd2(options);
            options := options || jsonb_build_object('stable', options->>'late' = 'weave' AND reference.is_stable(options));
        EXCEPTION WHEN SQLSTATE 'RF001' THEN
            expected := NULL;
        END;
        FOR sh IN SELECT * FROM reference.shape s
            WHERE CASE WHEN only_shape IS NULL THEN options->'shapes' ? s.shape ELSE s.shape = only_shape END
            ORDER BY shape LOOP
            FOREACH path IN ARRAY ARRAY['auto', 'general'] LOOP
                CONTINUE WHEN path <> only_path;
                what := reference.try_scd2(sh, path, options, expected);
                IF what IS NOT NULL THEN
                    INSERT INTO reference.problem
                    VALUES (seed, number, sh.shape, path, what, reference.show_scd2(options));
                END IF;
            END LOOP;
        END LOOP;
        COMMIT;
        EXIT WHEN (SELECT count(*) > 20 FROM reference.problem);
    END LOOP;
    RESET etl_patterns.merge_path;
END
$$;

-- ---------------------------------------------------------------------------
-- change_log: any cut into batches and any order is as good as another
-- ---------------------------------------------------------------------------

CREATE TABLE reference.history (LIKE reference.plain INCLUDING ALL);

-- What comes, and in which round.  k2 tells the orders of arrival apart: '0'
-- is all at once and sorted.
CREATE UNLOGGED TABLE reference.arrival (LIKE reference.batch, round int);
CREATE UNLOGGED TABLE reference.expected_log (LIKE reference.stored);

-- Three keys, in so many orders at once: keys do not know of each other.
CREATE FUNCTION reference.make_log(seed int, number int, orders int) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    e reference.batch;
    rounds int;
    started boolean;
    day int;
BEGIN
    PERFORM reference.start(seed, number);
    TRUNCATE reference.batch;
    DELETE FROM reference.stored;
    started := reference.chance(0.25);
    FOR key IN 1 .. 3 LOOP
        FOR day IN SELECT d FROM (SELECT d, random() AS r FROM generate_series(0, 30) d) x
            ORDER BY r LIMIT 5 + reference.upto(7) LOOP
            e := NULL;
            e.k := key;
            e.k2 := '0';
            e.a := CASE WHEN reference.chance(0.25) THEN NULL ELSE reference.pick('A', 'B', 'C') END;
            e.b := CASE WHEN reference.chance(0.5) THEN NULL ELSE 1 END;
            e.o := reference.pick('o1', 'o2', 'o3', NULL);
            e.f := CASE WHEN started THEN 'f' ELSE reference.pick('f1', 'f2', 'f3', NULL) END;
            e.p := 'p' || day;
            e.ts := reference.day(day);
            e.del := reference.chance(0.2);
            e.ord := key * 100 + day;
            INSERT INTO reference.batch SELECT e.*;
        END LOOP;
        -- versions from before there was a log
        IF started AND reference.chance(0.8) THEN
            INSERT INTO reference.stored VALUES
                (key, '0', 'B', 1, 'o', 'f', 'p', NULL, 'default', reference.day(8) + interval '6 hours',
                 reference.day(15) + interval '6 hours'),
                (key, '0', 'C', NULL, 'o', 'f', 'p', 'B', 'default', reference.day(15 + reference.upto(1)) + interval '6 hours',
                 CASE WHEN reference.chance(0.7) THEN NULL ELSE reference.day(20) + interval '6 hours' END);
        END IF;
    END LOOP;

    TRUNCATE reference.arrival;
    INSERT INTO reference.arrival SELECT *, 1 FROM reference.batch ORDER BY k, ts;
    FOR i IN 1 .. orders LOOP
        rounds := 1 + reference.upto(5);
        INSERT INTO reference.arrival
        SELECT k, i::text, a, b, o, f, p, ts, del, ord, 1 + reference.upto(rounds - 1) FROM reference.batch;
        -- redelivery
        INSERT INTO reference.arrival
        SELECT k, i::text, a, b, o, f, p, ts, del, ord, 1 + reference.upto(rounds - 1) FROM reference.batch
        WHERE reference.chance(0.15);
    END LOOP;
END
$$;

CREATE PROCEDURE reference.check_log(seed int, first int, cases int, orders int DEFAULT 8)
LANGUAGE plpgsql AS $$
DECLARE
    options jsonb := '{"sequence": true, "deletes": true, "absent": "ignore", "duplicates": "error",
                       "null_keys": "error", "late": "weave"}';
    sh reference.shape := ('history', false, true, 'batch');
    c reference.counts;
    what text;
    details text;
BEGIN
    FOR number IN first .. first + cases - 1 LOOP
        PERFORM set_config('etl_patterns.merge_path', CASE WHEN number % 4 = 0 THEN 'general' ELSE 'auto' END, false);
        PERFORM reference.make_log(seed, number, orders);
        details := reference.show_scd2(options);

        -- What is stored already counts as changes that came long ago.
        CREATE TEMP TABLE IF NOT EXISTS stored_once (LIKE reference.stored);
        DELETE FROM stored_once;
        INSERT INTO stored_once SELECT * FROM reference.stored;
        DELETE FROM reference.stored;
        INSERT INTO reference.batch
        SELECT k, k2, a, b, o, f, p, valid_from, false, 1000 + row_number() OVER () FROM stored_once;
        INSERT INTO reference.batch
        SELECT k, k2, a, b, o, f, p, valid_to, true, 2000 + row_number() OVER () FROM stored_once s
        WHERE valid_to IS NOT NULL
            AND NOT EXISTS (SELECT FROM stored_once n WHERE n.k = s.k AND n.valid_from = s.valid_to);
        c := reference.scd2(options);
        TRUNCATE reference.expected_log;
        INSERT INTO reference.expected_log
        SELECT k, n::text, a, b, o, f, p, prev_a, kept, valid_from, valid_to
        FROM reference.expected, generate_series(0, orders) n;

        INSERT INTO reference.stored
        SELECT k, n::text, a, b, o, f, p, prev_a, kept, valid_from, valid_to
        FROM stored_once, generate_series(0, orders) n;
        PERFORM reference.load_scd2(sh);
        DROP TABLE IF EXISTS reference.history_changes;

        what := NULL;
        FOR step IN 1 .. (SELECT max(round) FROM reference.arrival) LOOP
            TRUNCATE reference.batch;
            INSERT INTO reference.batch
            SELECT k, k2, a, b, o, f, p, ts, del, ord FROM (SELECT *, random() AS r FROM reference.arrival) x
            WHERE round = step ORDER BY k2 <> '0', CASE WHEN k2 = '0' THEN ts END, x.r;
            BEGIN
                EXECUTE reference.scd2_call(sh, options, true) INTO c;
            EXCEPTION WHEN OTHERS THEN
                what := format('error in round %s: %s: %s', step, SQLSTATE, SQLERRM);
                EXIT;
            END;
            IF c.rows_read <> (SELECT count(*) FROM reference.batch)
                OR c.rows_read <> c.inserted + c.opened + c.corrected + c.overwritten + c.unchanged + c.deleted
                                  + c.late + c.duplicates + c.rejected THEN
                what := format('round %s: the counts do not add up: %s', step, c);
                EXIT;
            END IF;
            what := 'etl_scd2_verify: ' || reference.verify(sh);
            EXIT WHEN what IS NOT NULL;
        END LOOP;
        IF what IS NULL THEN
            what := reference.compare_scd2(sh, 'reference.expected_log');
        END IF;
        IF what IS NOT NULL THEN
            INSERT INTO reference.problem
            VALUES (seed, number, 'change_log', current_setting('etl_patterns.merge_path'), what, details);
        END IF;
        COMMIT;
        EXIT WHEN (SELECT count(*) > 20 FROM reference.problem);
    END LOOP;
    RESET etl_patterns.merge_path;
END
$$;

-- ---------------------------------------------------------------------------
-- etl_upsert
-- ---------------------------------------------------------------------------

CREATE TABLE reference.rows_keyed (kept text DEFAULT 'default', k int, k2 text, a text, b numeric, c text, seq int,
    PRIMARY KEY (k, k2)) WITH (fillfactor = 80);
CREATE TABLE reference.rows_bare (k int, k2 text, a text, b numeric, c text, kept text DEFAULT 'default', seq int);
CREATE TABLE reference.rows_parted (LIKE reference.rows_keyed INCLUDING DEFAULTS) PARTITION BY LIST (a);
CREATE TABLE reference.rows_parted_a PARTITION OF reference.rows_parted FOR VALUES IN ('A', 'B');
CREATE TABLE reference.rows_parted_other PARTITION OF reference.rows_parted DEFAULT;
CREATE TABLE reference.rows_triggers (LIKE reference.rows_keyed INCLUDING ALL);
CREATE TRIGGER before_row BEFORE INSERT OR UPDATE OR DELETE ON reference.rows_triggers
    FOR EACH ROW EXECUTE FUNCTION reference.nothing();

-- Without a sequence the source has none.
CREATE VIEW reference.upsert_unordered AS SELECT k, k2, a, b, c, del, ord FROM reference.upsert_batch;

-- The steps of a case, and what each leaves.
CREATE UNLOGGED TABLE reference.upsert_steps (LIKE reference.upsert_batch, step int);
CREATE UNLOGGED TABLE reference.upsert_start (LIKE reference.stored_row);
CREATE UNLOGGED TABLE reference.upsert_expected (LIKE reference.stored_row, step int);
CREATE UNLOGGED TABLE reference.upsert_counted (step int, counts reference.upsert_counts);

CREATE FUNCTION reference.make_upsert(seed int, number int) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    e reference.upsert_batch;
    sequenced boolean;
    deletes boolean;
    null_keys text;
BEGIN
    PERFORM reference.start(seed, number);
    sequenced := reference.chance(0.6);
    deletes := reference.chance(0.7);
    null_keys := reference.pick('error', 'dead_letter');
    TRUNCATE reference.upsert_start;
    TRUNCATE reference.upsert_steps;
    INSERT INTO reference.upsert_start
    SELECT k, reference.pick('x', 'y'), reference.pick('A', 'B', NULL), reference.pick('1', '2', NULL)::numeric,
        reference.pick('c', 'd'), reference.pick('kept', NULL),
        CASE WHEN sequenced AND reference.chance(0.9) THEN 2 * reference.upto(10) END
    FROM generate_series(1, 6) k WHERE reference.chance(0.8);

    FOR step IN 1 .. 3 LOOP
        FOR i IN 1 .. 1 + reference.upto(reference.pick('3', '14')::int) LOOP
            e := NULL;
            e.k := 1 + reference.upto(7);
            SELECT k2 INTO e.k2 FROM reference.upsert_start WHERE k = e.k;
            e.k2 := coalesce(e.k2, 'x');
            e.a := reference.pick('A', 'B', NULL);
            e.b := reference.pick('1', '2.0', NULL)::numeric;
            e.c := reference.pick('c', 'd');
            e.del := deletes AND reference.chance(0.25);
            e.seq := reference.upto(16 + 6 * step);
            e.ord := i;
            IF reference.chance(0.2) AND NOT e.del THEN
                SELECT a, b, c, coalesce(seq, e.seq) INTO e.a, e.b, e.c, e.seq FROM reference.upsert_start WHERE k = e.k;
                e.seq := coalesce(e.seq, 0);
            END IF;
            INSERT INTO reference.upsert_steps SELECT e.*, step;
            IF reference.chance(0.12) THEN
                e.ord := i + 100;
                INSERT INTO reference.upsert_steps SELECT e.*, step;
            END IF;
            IF reference.chance(0.06) THEN
                e.ord := i + 200;
                e.a := reference.pick('D', 'A');
                e.del := false;
                INSERT INTO reference.upsert_steps SELECT e.*, step;
            END IF;
            IF reference.chance(0.04) AND null_keys = 'dead_letter' THEN
                e.ord := i + 300;
                CASE reference.pick('k', 'k2', 'seq')
                    WHEN 'k' THEN e.k := NULL;
                    WHEN 'k2' THEN e.k2 := NULL;
                    ELSE e.seq := NULL;
                END CASE;
                INSERT INTO reference.upsert_steps SELECT e.*, step;
            END IF;
        END LOOP;
    END LOOP;

    RETURN jsonb_build_object(
        'sequence', sequenced, 'deletes', deletes,
        'keep_tombstones', CASE WHEN reference.chance(0.2) THEN false END,
        'update_columns', CASE reference.upto(3) WHEN 0 THEN '["a"]' WHEN 1 THEN '["c", "b"]' ELSE '["a", "b", "c"]' END::jsonb,
        'absent', CASE WHEN NOT sequenced AND reference.chance(0.4) THEN 'delete' ELSE 'ignore' END,
        'duplicates', CASE WHEN reference.chance(0.2) THEN 'error' ELSE reference.pick('last', 'dead_letter') END,
        'null_keys', null_keys);
END
$$;

-- Fills reference.upsert_batch with a step.
CREATE FUNCTION reference.take_step(n int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE reference.upsert_batch;
    INSERT INTO reference.upsert_batch
    SELECT k, k2, a, b, c, seq, del, ord FROM reference.upsert_steps WHERE step = n ORDER BY ord;
END
$$;

CREATE FUNCTION reference.try_upsert(tab text, path text, options jsonb) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    call text;
    n reference.upsert_counts;
    again reference.upsert_counts;
    expected reference.upsert_counts;
    before text;
    problem text;
    failed boolean;
BEGIN
    PERFORM set_config('etl_patterns.merge_path', path, false);
    EXECUTE format('DELETE FROM reference.%I', tab);
    EXECUTE format('DROP TABLE IF EXISTS reference.%I', tab || '_tombstones');
    EXECUTE format('INSERT INTO reference.%I (k, k2, a, b, c, kept, seq) SELECT * FROM reference.upsert_start', tab);
    call := format('SELECT rows_read, inserted, updated, unchanged, deleted, stale, duplicates, rejected'
                   ' FROM etl_upsert(%L, %L, keys => %L, update_columns => %L, sequence_by => %L, delete_when => %L,'
                   ' absent => %L, duplicates => %L, null_keys => %L, keep_tombstones => %L)',
                   'reference.' || tab,
                   'reference.' || CASE WHEN (options->>'sequence')::boolean THEN 'upsert_batch' ELSE 'upsert_unordered' END,
                   '{k,k2}', CASE WHEN jsonb_array_length(options->'update_columns') < 3
                                  THEN ARRAY(SELECT jsonb_array_elements_text(options->'update_columns'))::text END,
                   CASE WHEN (options->>'sequence')::boolean THEN 'seq' END,
                   CASE WHEN (options->>'deletes')::boolean THEN 'del' END,
                   options->>'absent', options->>'duplicates', options->>'null_keys', options->>'keep_tombstones');
    FOR s IN 1 .. 3 LOOP
        PERFORM reference.take_step(s);
        SELECT (counts).* INTO expected FROM reference.upsert_counted WHERE step = s AND counts IS NOT NULL;
        before := reference.places(tab);
        failed := false;
        BEGIN
            EXECUTE call INTO n;
        EXCEPTION WHEN OTHERS THEN
            IF expected.rows_read IS NOT NULL OR SQLSTATE LIKE 'XX%' OR SQLSTATE LIKE '42%' OR SQLSTATE LIKE '0A%' THEN
                RETURN format('step %s: error %s: %s', s, SQLSTATE, SQLERRM);
            END IF;
            failed := true;
        END;
        IF expected.rows_read IS NULL THEN
            IF NOT failed THEN
                RETURN format('step %s: it should be an error, but was %s', s, n);
            ELSIF reference.places(tab) <> before THEN
                RETURN format('step %s: an error left traces', s);
            END IF;
            CONTINUE;
        END IF;
        EXECUTE format('SELECT string_agg(line, E''\n'' ORDER BY line) FROM ('
                       ' (SELECT t::text || '' is missing'' AS line FROM (%2$s EXCEPT ALL %1$s) t LIMIT 6) UNION ALL'
                       ' (SELECT t::text || '' is wrong'' FROM (%1$s EXCEPT ALL %2$s) t LIMIT 6)) d',
                       format('SELECT k, k2, a, b, c, kept, seq FROM reference.%I', tab),
                       format('SELECT k, k2, a, b, c, kept, seq FROM reference.upsert_expected WHERE step = %s', s))
            INTO problem;
        IF problem IS NOT NULL THEN
            RETURN format(E'step %s:\n%s', s, problem);
        ELSIF n IS DISTINCT FROM expected THEN
            RETURN format('step %s: counts are %s, not %s, of read, inserted, updated, unchanged, deleted, stale,'
                          ' duplicates, rejected', s, n, expected);
        END IF;
        before := reference.places(tab);
        BEGIN
            EXECUTE call INTO again;
        EXCEPTION WHEN OTHERS THEN
            RETURN format('step %s: error in the second run: %s: %s', s, SQLSTATE, SQLERRM);
        END;
        IF reference.places(tab) <> before THEN
            RETURN format('step %s: the second run wrote', s);
        ELSIF again.inserted + again.updated + again.deleted <> 0 OR again.rows_read <> n.rows_read
            OR again.unchanged + again.stale + again.duplicates + again.rejected <> again.rows_read THEN
            RETURN format('step %s: the second run counts %s after %s', s, again, n);
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

CREATE PROCEDURE reference.check_upsert(seed int, first int, cases int, only_shape text DEFAULT NULL,
                                        only_path text DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
    options jsonb;
    n reference.upsert_counts;
    tab text;
    path text;
    what text;
BEGIN
    FOR number IN first .. first + cases - 1 LOOP
        options := reference.make_upsert(seed, number);
        options := options || jsonb_build_object('tombstones',
            (options->>'sequence')::boolean AND (options->>'deletes')::boolean AND options->>'keep_tombstones' IS NULL);
        TRUNCATE reference.upsert_expected, reference.upsert_counted, reference.tombstone, reference.stored_row;
        INSERT INTO reference.stored_row SELECT * FROM reference.upsert_start;
        FOR s IN 1 .. 3 LOOP
            PERFORM reference.take_step(s);
            BEGIN
                n := reference.upsert(options);
            EXCEPTION WHEN SQLSTATE 'RF001' THEN
                n := NULL;
            END;
            INSERT INTO reference.upsert_counted VALUES (s, n);
            INSERT INTO reference.upsert_expected SELECT *, s FROM reference.stored_row;
        END LOOP;
        FOREACH tab IN ARRAY ARRAY['rows_keyed', 'rows_bare', 'rows_parted', 'rows_triggers'] LOOP
            CONTINUE WHEN tab <> only_shape;
            FOREACH path IN ARRAY ARRAY['auto', 'general'] LOOP
                CONTINUE WHEN path <> only_path;
                what := reference.try_upsert(tab, path, options);
                IF what IS NOT NULL THEN
                    INSERT INTO reference.problem VALUES (seed, number, tab, path, what, options::text || E'\n'
                        || coalesce((SELECT string_agg('stored ' || s, E'\n' ORDER BY k) FROM reference.upsert_start s),
                                    'nothing stored') || E'\n'
                        || (SELECT string_agg('batch ' || s, E'\n' ORDER BY step, k, seq, ord)
                            FROM reference.upsert_steps s));
                END IF;
            END LOOP;
        END LOOP;
        COMMIT;
        EXIT WHEN (SELECT count(*) > 20 FROM reference.problem);
    END LOOP;
    RESET etl_patterns.merge_path;
END
$$;
