-- The merges by the book: slow, plain, one key and one point in time after
-- the other.  reference.scd2 and reference.upsert take what is stored and a
-- batch, from the tables below, and say what the target holds afterwards and
-- what was counted.  merge_cases.sql compares the extension with them.

CREATE SCHEMA reference;

-- ---------------------------------------------------------------------------
-- Versions in time
-- ---------------------------------------------------------------------------

-- A version holds from valid_from until just before valid_to; NULL: it is
-- open.  a and b are tracked, o is written over, f is fixed, p has no role,
-- prev_a is the former a, kept is a column that the source lacks.
CREATE UNLOGGED TABLE reference.stored (k int, k2 text, a text, b numeric, o text, f text, p text,
    prev_a text, kept text, valid_from timestamp, valid_to timestamp);
CREATE UNLOGGED TABLE reference.expected (LIKE reference.stored);

-- ord is the order in which a scan finds the rows; it is unique.
CREATE UNLOGGED TABLE reference.batch (k int, k2 text, a text, b numeric, o text, f text, p text,
    ts timestamp, del boolean, ord int);

CREATE TYPE reference.counts AS (rows_read bigint, inserted bigint, opened bigint, closed bigint,
    corrected bigint, overwritten bigint, unchanged bigint, deleted bigint, revived bigint,
    late bigint, duplicates bigint, rejected bigint);

-- From time t on the key is as data says; no data: it does not exist.
CREATE TYPE reference.point AS (t timestamp, data reference.stored, changed boolean);

-- The rows of the batch that count: ties are settled and bad rows gone.
-- Complains of what the option words call an error.
CREATE FUNCTION reference.settle(options jsonb, INOUT c reference.counts, OUT events reference.batch[])
LANGUAGE plpgsql AS $$
DECLARE
    tie record;
    e reference.batch;
BEGIN
    events := '{}';
    SELECT count(*) INTO c.rows_read FROM reference.batch;

    SELECT count(*) INTO c.rejected FROM reference.batch WHERE k IS NULL OR k2 IS NULL OR ts IS NULL;
    IF c.rejected > 0 AND options->>'null_keys' = 'error' THEN
        RAISE EXCEPTION USING ERRCODE = 'RF001', MESSAGE = 'NULL in a key';
    END IF;

    FOR tie IN
        SELECT k, k2, ts, count(*) AS n, count(DISTINCT ROW(a, b, o, f, p, coalesce(del, false))) AS different,
               max(ord) AS last, min(ord) FILTER (WHERE del) AS deletes
        FROM reference.batch
        WHERE k IS NOT NULL AND k2 IS NOT NULL AND ts IS NOT NULL
        GROUP BY k, k2, ts ORDER BY k, k2, ts
    LOOP
        IF tie.deletes IS NULL AND tie.different > 1 THEN
            IF options->>'duplicates' = 'error' THEN
                RAISE EXCEPTION USING ERRCODE = 'RF001', MESSAGE = 'different rows of one key and time';
            ELSIF options->>'duplicates' = 'dead_letter' THEN
                c.rejected := c.rejected + tie.n;
                CONTINUE;
            END IF;
        END IF;
        c.duplicates := c.duplicates + tie.n - 1;
        SELECT * INTO e FROM reference.batch WHERE ord = coalesce(tie.deletes, tie.last);
        e.del := coalesce(e.del, false);
        events := events || e;
    END LOOP;
END
$$;

-- The timeline of the stored versions: a point where one starts, and where
-- one ends with no other after it.
CREATE FUNCTION reference.points(versions reference.stored[]) RETURNS reference.point[]
LANGUAGE plpgsql AS $$
DECLARE
    result reference.point[] := '{}';
    v reference.stored;
    n int := coalesce(cardinality(versions), 0);
BEGIN
    FOR i IN 1 .. n LOOP
        v := versions[i];
        result := result || (v.valid_from, v, false)::reference.point;
        IF v.valid_to IS NOT NULL AND (i = n OR (versions[i + 1]).valid_from <> v.valid_to) THEN
            result := result || (v.valid_to, NULL, false)::reference.point;
        END IF;
    END LOOP;
    RETURN result;
END
$$;

-- The last point at or before t.
CREATE FUNCTION reference.point_at(points reference.point[], at timestamp) RETURNS reference.point
LANGUAGE sql AS $$
    SELECT p::reference.point FROM unnest(points) p WHERE p.t <= at ORDER BY p.t DESC LIMIT 1
$$;

-- Does the event say something else than the data?
CREATE FUNCTION reference.differs(data reference.stored, e reference.batch) RETURNS boolean
LANGUAGE sql AS $$
    SELECT CASE WHEN e.del THEN data.k IS NOT NULL
                ELSE data.k IS NULL OR data.a IS DISTINCT FROM e.a OR data.b IS DISTINCT FROM e.b END
$$;

-- One key.  events are in the order of time; absent says when the key was
-- found to be missing; its end is not counted as a row.
CREATE FUNCTION reference.scd2_key(versions reference.stored[], events reference.batch[], options jsonb,
                                   absent timestamp, INOUT c reference.counts)
LANGUAGE plpgsql AS $$
DECLARE
    known boolean := cardinality(versions) > 0;
    last reference.stored := versions[cardinality(versions)];
    boundary timestamp := coalesce(last.valid_to, last.valid_from);
    old reference.point[] := reference.points(versions);
    new reference.point[] := '{}';
    kept_events reference.batch[] := '{}';
    newest reference.batch;     -- gives the overwrite columns
    newest_unchanged boolean := false;
    was_inserted boolean := false;
    fixed text;
    times timestamp[];
    at timestamp;
    e reference.batch;
    s reference.point;          -- stored at this very time
    before reference.stored;    -- of the new timeline, before this time
    without reference.stored;   -- what would be now if there were no event
    data reference.stored;
    is_late boolean;
    changes boolean;
    result reference.stored[] := '{}';
    v reference.stored;
    previous reference.stored;
    p reference.point;
BEGIN
    IF absent IS NOT NULL THEN
        events := ARRAY[(last.k, last.k2, NULL, NULL, NULL, NULL, NULL, absent, true, -1)::reference.batch];
    END IF;

    -- Late rows that are not to be woven in go first.
    FOREACH e IN ARRAY events LOOP
        is_late := known AND e.ts < boundary;
        IF is_late AND options->>'late' <> 'weave' THEN
            s := reference.point_at(old, e.ts);
            IF NOT reference.differs(s.data, e) THEN
                c.unchanged := c.unchanged + 1;
            ELSIF options->>'late' = 'ignore' THEN
                c.late := c.late + 1;
            ELSE
                c.rejected := c.rejected + 1;
            END IF;
        ELSE
            kept_events := kept_events || e;
        END IF;
    END LOOP;

    -- A key that is present and closed opens at the time of the whole source.
    IF options->>'absent' = 'close' AND known AND absent IS NULL AND last.valid_to IS NOT NULL THEN
        FOR i IN 1 .. cardinality(kept_events) LOOP
            e := kept_events[i];
            IF i = cardinality(kept_events) AND NOT e.del AND e.ts < last.valid_to THEN
                e.ts := greatest(e.ts, (options->>'truth_at')::timestamp);
                kept_events[i] := e;
            END IF;
        END LOOP;
    END IF;

    -- Fixed columns: the first value there is.
    fixed := (versions[1]).f;
    IF NOT known THEN
        SELECT x.f INTO fixed FROM unnest(kept_events) x WHERE NOT x.del ORDER BY x.ts LIMIT 1;
    END IF;

    -- The new timeline, from point to point.
    SELECT array_agg(DISTINCT t ORDER BY t) INTO times
    FROM (SELECT (x).t FROM unnest(old) x UNION SELECT x.ts FROM unnest(kept_events) x) u;
    FOREACH at IN ARRAY coalesce(times, '{}') LOOP
        s := NULL;
        e := NULL;
        SELECT x.* INTO s FROM unnest(old) x WHERE x.t = at;
        SELECT x.* INTO e FROM unnest(kept_events) x WHERE x.ts = at;
        without := CASE WHEN s.t IS NOT NULL THEN s.data ELSE before END;
        data := without;
        changes := false;
        IF e.ts IS NOT NULL THEN
            is_late := known AND e.ts < boundary;
            changes := reference.differs(without, e);
            IF NOT e.del AND NOT is_late THEN
                newest := e;
                newest_unchanged := NOT changes;
            END IF;
            IF e.ord = -1 THEN
                NULL;
            ELSIF NOT changes THEN
                c.unchanged := c.unchanged + 1;
            ELSIF e.del AND (s.data).k IS NOT NULL THEN
                c.deleted := c.deleted + 1;     -- the version that starts here, late or not
            ELSIF (s.data).k IS NOT NULL THEN
                c.corrected := c.corrected + 1;
            ELSIF s.t IS NOT NULL AND NOT reference.differs(before, e) THEN
                c.corrected := c.corrected + 1; -- the version before did not end here
            ELSIF is_late THEN
                c.late := c.late + 1;
            ELSIF e.del THEN
                c.deleted := c.deleted + 1;
            ELSIF NOT known AND NOT was_inserted THEN
                c.inserted := c.inserted + 1;
                was_inserted := true;
            ELSE
                c.opened := c.opened + 1;
                IF without.k IS NULL THEN
                    c.revived := c.revived + 1;
                END IF;
            END IF;
            IF changes AND e.del THEN
                data := NULL;
            ELSIF changes THEN
                data := NULL;
                data.k := e.k;
                data.k2 := e.k2;
                data.a := e.a;
                data.b := e.b;
                data.o := last.o;
                data.f := fixed;
                data.p := e.p;
                -- as in the stored version of this time, or the nearest
                SELECT x.kept INTO data.kept FROM unnest(versions) x
                ORDER BY x.valid_from <= at DESC, CASE WHEN x.valid_from <= at THEN x.valid_from END DESC,
                    x.valid_from LIMIT 1;
                IF NOT known THEN
                    data.kept := 'default';
                END IF;
            END IF;
        END IF;
        IF changes OR s.t IS NOT NULL THEN
            new := new || (at, data, changes)::reference.point;
        END IF;
        before := data;
    END LOOP;

    -- Points become versions.  Neighbours that are equal are one version if
    -- a change brought one of them; stored ones that nothing touched stay.
    FOR i IN 1 .. cardinality(new) LOOP
        p := new[i];
        data := p.data;
        CONTINUE WHEN data.k IS NULL;
        data.valid_from := p.t;
        data.valid_to := (new[i + 1]).t;
        v := result[cardinality(result)];
        IF v.valid_to = p.t AND v.a IS NOT DISTINCT FROM data.a AND v.b IS NOT DISTINCT FROM data.b
            AND (p.changed OR (new[i - 1]).changed) THEN
            v.valid_to := data.valid_to;
            result[cardinality(result)] := v;
        ELSE
            result := result || data;
        END IF;
    END LOOP;

    -- Columns that are written over.
    IF newest.ts IS NOT NULL THEN
        IF newest_unchanged AND EXISTS (SELECT FROM unnest(versions) x WHERE x.o IS DISTINCT FROM newest.o) THEN
            c.overwritten := c.overwritten + 1;
            c.unchanged := c.unchanged - 1;
        END IF;
    END IF;
    previous := NULL;
    FOR i IN 1 .. cardinality(result) LOOP
        v := result[i];
        IF newest.ts IS NOT NULL THEN
            v.o := newest.o;
        END IF;
        v.prev_a := CASE WHEN i = 1 THEN NULL
                         WHEN v.a IS DISTINCT FROM previous.a THEN previous.a
                         ELSE previous.prev_a END;
        INSERT INTO reference.expected SELECT v.*;
        previous := v;
    END LOOP;
    v := result[cardinality(result)];

    -- Was the open version closed?  Not if it was corrected in place, or only
    -- starts earlier now.
    IF last.k IS NOT NULL AND last.valid_to IS NULL AND (v.k IS NULL OR v.valid_to IS NOT NULL
        OR last.valid_from IS DISTINCT FROM coalesce(
            (SELECT x.valid_from FROM unnest(versions) x WHERE x.valid_from = v.valid_from),
            (SELECT min(x.valid_from) FROM unnest(versions) x
             WHERE x.valid_from > v.valid_from AND x.a IS NOT DISTINCT FROM v.a AND x.b IS NOT DISTINCT FROM v.b)))
    THEN
        c.closed := c.closed + 1;
    END IF;
END
$$;

-- Merges reference.batch with reference.stored into reference.expected.
-- Options: late, duplicates, null_keys, absent, scope (column k2 or null) as
-- the function under test has them, truth_at: when absent keys end.  Without
-- a sequence all rows have the same ts.
CREATE FUNCTION reference.scd2(options jsonb) RETURNS reference.counts
LANGUAGE plpgsql AS $$
DECLARE
    c reference.counts := (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    settled record;
    events reference.batch[];
    versions reference.stored[];
    key record;
    absent timestamp;
BEGIN
    DELETE FROM reference.expected;
    settled := reference.settle(options, c);
    c := settled.c;
    FOR key IN
        SELECT k, k2 FROM reference.stored
        UNION
        SELECT k, k2 FROM reference.batch WHERE k IS NOT NULL AND k2 IS NOT NULL
        ORDER BY k, k2
    LOOP
        SELECT coalesce(array_agg(s ORDER BY s.valid_from), '{}') INTO versions
        FROM reference.stored s WHERE s.k = key.k AND s.k2 = key.k2;
        SELECT coalesce(array_agg(e::reference.batch ORDER BY e.ts), '{}') INTO events
        FROM unnest(settled.events) e WHERE e.k = key.k AND e.k2 = key.k2;
        absent := NULL;
        IF options->>'absent' = 'close'
            AND NOT EXISTS (SELECT FROM reference.batch b WHERE b.k = key.k AND b.k2 = key.k2)
            AND (versions[cardinality(versions)]).valid_to IS NULL
            AND (versions[cardinality(versions)]).valid_from <= (options->>'truth_at')::timestamp
            AND (options->>'scope' IS NULL OR key.k2 IN (SELECT k2 FROM reference.batch))
            AND EXISTS (SELECT FROM reference.batch) THEN
            absent := (options->>'truth_at')::timestamp;
        END IF;
        c := reference.scd2_key(versions, events, options, absent, c);
    END LOOP;
    RETURN c;
END
$$;

-- ---------------------------------------------------------------------------
-- Upsert
-- ---------------------------------------------------------------------------

CREATE UNLOGGED TABLE reference.stored_row (k int, k2 text, a text, b numeric, c text, kept text, seq int);
CREATE UNLOGGED TABLE reference.tombstone (k int, k2 text, seq int);
CREATE UNLOGGED TABLE reference.upsert_batch (k int, k2 text, a text, b numeric, c text, seq int, del boolean, ord int);

CREATE TYPE reference.upsert_counts AS (rows_read bigint, inserted bigint, updated bigint, unchanged bigint,
    deleted bigint, stale bigint, duplicates bigint, rejected bigint);

-- One key: its rows of the batch, of which one is to win.
CREATE FUNCTION reference.upsert_key(key_k int, key_k2 text, options jsonb, INOUT n reference.upsert_counts)
LANGUAGE plpgsql AS $$
DECLARE
    sequenced boolean := (options->>'sequence')::boolean;
    columns text[] := ARRAY(SELECT jsonb_array_elements_text(options->'update_columns'));
    rows reference.upsert_batch[];
    tied reference.upsert_batch[];
    winner reference.upsert_batch;
    s reference.stored_row;
    grave int;
    total int;
    different int;
BEGIN
    SELECT * INTO s FROM reference.stored_row WHERE k = key_k AND k2 = key_k2;
    SELECT seq INTO grave FROM reference.tombstone WHERE k = key_k AND k2 = key_k2;

    -- Rows that are older than what is stored are stale.
    SELECT count(*), array_agg(r::reference.upsert_batch ORDER BY r.ord) FILTER (WHERE NOT sequenced
        OR coalesce(r.seq >= s.seq, true)
           AND coalesce(CASE WHEN r.del THEN r.seq >= grave ELSE r.seq > grave END, true))
    INTO total, rows FROM reference.upsert_batch r
    WHERE r.k = key_k AND r.k2 = key_k2 AND (NOT sequenced OR r.seq IS NOT NULL);
    n.stale := n.stale + total - coalesce(cardinality(rows), 0);

    -- The newest of the others wins.  If it cannot, because it is one of a
    -- tie that is rejected, then the next one.
    LOOP
        IF coalesce(cardinality(rows), 0) = 0 THEN
            RETURN;
        END IF;
        SELECT array_agg(r::reference.upsert_batch ORDER BY r.ord), count(DISTINCT ROW(r.a, r.b, r.c))
        INTO tied, different FROM unnest(rows) r
        WHERE NOT sequenced OR r.seq = (SELECT max(x.seq) FROM unnest(rows) x);
        SELECT array_agg(r::reference.upsert_batch ORDER BY r.ord) INTO rows
        FROM unnest(rows) r WHERE sequenced AND r.seq < (tied[1]).seq;
        SELECT r.* INTO winner FROM unnest(tied) r ORDER BY r.del DESC, r.ord DESC LIMIT 1;
        EXIT WHEN winner.del OR different = 1 OR options->>'duplicates' = 'last';
        IF options->>'duplicates' = 'error' THEN
            RAISE EXCEPTION USING ERRCODE = 'RF001', MESSAGE = 'different rows of one key';
        END IF;
        n.rejected := n.rejected + cardinality(tied);
    END LOOP;
    n.duplicates := n.duplicates + cardinality(tied) - 1;
    n.stale := n.stale + coalesce(cardinality(rows), 0);

    IF winner.del THEN
        IF s.k IS NULL THEN
            n.unchanged := n.unchanged + 1;
        ELSE
            n.deleted := n.deleted + 1;
            DELETE FROM reference.stored_row WHERE k = key_k AND k2 = key_k2;
        END IF;
        IF (options->>'tombstones')::boolean THEN
            DELETE FROM reference.tombstone WHERE k = key_k AND k2 = key_k2;
            INSERT INTO reference.tombstone VALUES (key_k, key_k2, winner.seq);
        END IF;
    ELSIF s.k IS NULL THEN
        n.inserted := n.inserted + 1;
        INSERT INTO reference.stored_row
        VALUES (winner.k, winner.k2, winner.a, winner.b, winner.c, 'default', CASE WHEN sequenced THEN winner.seq END);
        DELETE FROM reference.tombstone WHERE k = key_k AND k2 = key_k2;
    ELSE
        IF 'a' = ANY (columns) AND s.a IS DISTINCT FROM winner.a
            OR 'b' = ANY (columns) AND s.b IS DISTINCT FROM winner.b
            OR 'c' = ANY (columns) AND s.c IS DISTINCT FROM winner.c THEN
            n.updated := n.updated + 1;
        ELSE
            n.unchanged := n.unchanged + 1;
        END IF;
        UPDATE reference.stored_row r
        SET a = CASE WHEN 'a' = ANY (columns) THEN winner.a ELSE r.a END,
            b = CASE WHEN 'b' = ANY (columns) THEN winner.b ELSE r.b END,
            c = CASE WHEN 'c' = ANY (columns) THEN winner.c ELSE r.c END,
            seq = CASE WHEN sequenced THEN winner.seq ELSE r.seq END
        WHERE k = key_k AND k2 = key_k2;
    END IF;
END
$$;

-- Merges reference.upsert_batch into reference.stored_row and .tombstone.
-- Options: sequence, tombstones (booleans), update_columns (array),
-- duplicates, null_keys, absent.
CREATE FUNCTION reference.upsert(options jsonb) RETURNS reference.upsert_counts
LANGUAGE plpgsql AS $$
DECLARE
    sequenced boolean := (options->>'sequence')::boolean;
    n reference.upsert_counts := (0, 0, 0, 0, 0, 0, 0, 0);
    key record;
    absent bigint;
BEGIN
    SELECT count(*), count(*) FILTER (WHERE k IS NULL OR k2 IS NULL OR sequenced AND seq IS NULL)
    INTO n.rows_read, n.rejected FROM reference.upsert_batch;
    IF n.rejected > 0 AND options->>'null_keys' = 'error' THEN
        RAISE EXCEPTION USING ERRCODE = 'RF001', MESSAGE = 'NULL in a key';
    END IF;
    FOR key IN SELECT DISTINCT k, k2 FROM reference.upsert_batch WHERE k IS NOT NULL AND k2 IS NOT NULL LOOP
        n := reference.upsert_key(key.k, key.k2, options, n);
    END LOOP;
    IF options->>'absent' = 'delete' AND n.rows_read > 0 THEN
        DELETE FROM reference.stored_row s
        WHERE NOT EXISTS (SELECT FROM reference.upsert_batch b WHERE b.k = s.k AND b.k2 = s.k2);
        GET DIAGNOSTICS absent = ROW_COUNT;
        n.deleted := n.deleted + absent;
    END IF;
    RETURN n;
END
$$;
