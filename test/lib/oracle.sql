-- COPY and row-by-row INSERT as oracles of etl_bulk_copy.  Each function
-- returns one line per thing that is wrong, hence nothing if all is well.

CREATE SCHEMA oracle;

-- Where a file of bytes goes.
CREATE FUNCTION oracle.write_file(path text, bytes bytea) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    lob oid := lo_from_bytea(0, bytes);
BEGIN
    PERFORM lo_export(lob, path);
    PERFORM lo_unlink(lob);
END
$$;

-- What COPY says about a file: NULL if it takes it, else SQLSTATE and message.
-- The rows stay in oracle.theirs.
CREATE FUNCTION oracle.copy_says(path text, options text) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE oracle.theirs;
    EXECUTE format('COPY oracle.theirs FROM %L WITH (FORMAT csv, %s)', path, options);
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;

CREATE FUNCTION oracle.rows_of(tab text) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    result text[];
BEGIN
    EXECUTE format('SELECT coalesce(array_agg(t::text ORDER BY ctid), ''{}'') FROM oracle.%I t', tab)
        INTO result;
    RETURN result;
END
$$;

CREATE FUNCTION oracle.difference(ours text[], theirs text[]) RETURNS text
LANGUAGE sql AS $$
    SELECT format('%s rows of ours, %s of theirs; the first that differs: ours %L, theirs %L',
                  cardinality(ours), cardinality(theirs), left(o, 200), left(t, 200))
    FROM unnest(ours, theirs) WITH ORDINALITY AS u (o, t, n)
    WHERE o IS DISTINCT FROM t ORDER BY n LIMIT 1
$$;

-- The bytes of the file without those of the dead letters of a run, and what
-- is wrong with the places of these.
CREATE FUNCTION oracle.remainder(file bytea, run bigint, enc name, start int,
                                 OUT rest bytea, OUT problem text)
LANGUAGE plpgsql AS $$
DECLARE
    letter record;
    pos int := start;
    len int;
    eol int;
BEGIN
    rest := '';
    FOR letter IN
        SELECT byte_offset::int AS at, coalesce(raw_bytes, convert_to(raw_record, enc)) AS raw
        FROM etl_patterns.dead_letter WHERE run_id = run ORDER BY byte_offset
    LOOP
        len := length(letter.raw);
        IF letter.at < pos THEN
            problem := format('the dead letter at byte %s overlaps the one before, which ends at %s',
                              letter.at, pos);
            RETURN;
        END IF;
        IF substr(file, letter.at + 1, len) IS DISTINCT FROM letter.raw THEN
            problem := format('the file does not hold the dead letter of byte %s: %s',
                              letter.at, letter.raw);
            RETURN;
        END IF;
        rest := rest || substr(file, pos + 1, letter.at - pos);
        pos := letter.at + len;
        eol := CASE WHEN substr(file, pos + 1, 2) = '\x0d0a' THEN 2
                    WHEN substr(file, pos + 1, 1) IN ('\x0a', '\x0d') THEN 1
                    ELSE 0 END;
        IF eol = 0 AND pos < length(file) THEN
            problem := format('the dead letter of byte %s ends in mid-line', letter.at);
            RETURN;
        END IF;
        pos := pos + eol;
    END LOOP;
    rest := rest || substr(file, pos + 1);
END
$$;

-- COPY looks at the character behind a carriage return before it says what is
-- wrong up to there, or that nothing is; we look at what comes first.
CREATE FUNCTION oracle.looks_past_cr(said text, file bytea) RETURNS boolean
LANGUAGE sql AS $$
    SELECT said LIKE '22021 %' AND
        position(decode('0d' || regexp_replace(substring(said FROM '0x.*'), ' ?0x', '', 'g'), 'hex')
                 IN file) > 0
$$;

-- Does COPY reject this record alone, as the dead letter says?  A header line
-- tells COPY how lines end in the file that it comes from.
CREATE FUNCTION oracle.check_letter(letter etl_patterns.dead_letter, file bytea,
                                    enc name, options text)
RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    raw bytea := coalesce(letter.raw_bytes, convert_to(letter.raw_record, enc));
    expected text := letter.error_code || ' ' || letter.error_message;
    path text := current_setting('oracle.dir') || '/alone.csv';
    eol bytea;
    tail bytea;
    said text;
BEGIN
    <<try>>
    FOREACH eol IN ARRAY ARRAY['\x0a'::bytea, '\x0d'] LOOP
        FOREACH tail IN ARRAY ARRAY[
            eol,
            -- an encoding error shows the bytes that follow, too
            substr(file, (letter.byte_offset + length(raw))::int + 1, 4), ''] LOOP
            PERFORM oracle.write_file(path, 'h'::bytea || eol || raw || tail);
            said := oracle.copy_says(path, options || ', HEADER true');
            EXIT try WHEN said = expected;
        END LOOP;
    END LOOP;
    IF said IS DISTINCT FROM expected AND
        oracle.looks_past_cr(said, raw || substr(file, (letter.byte_offset + length(raw))::int + 1, 4)) IS NOT TRUE THEN
        RETURN format('dead letter of byte %s, %s: ours %L, theirs %L', letter.byte_offset,
                      left(raw::text, 200), expected, coalesce(said, 'accepted'));
    END IF;
    RETURN NULL;
END
$$;

-- One file.  "path" is what we load, "plain" the same uncompressed and, where
-- the line ends of "path" are mixed, with one kind of them: what COPY reads.
CREATE FUNCTION oracle.check_file(path text, plain text, mixed boolean, header boolean,
    delim text, quo text, esc text, null_string text, enc name)
RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
    options text := format('DELIMITER %L, QUOTE %L, ESCAPE %L, NULL %L, ENCODING %L',
                           delim, quo, esc, null_string, enc);
    head text := CASE WHEN header THEN 'skip' ELSE 'none' END;
    said text := oracle.copy_says(plain, options || CASE WHEN header THEN ', HEADER true' ELSE '' END);
    theirs text[] := oracle.rows_of('theirs');
    ours text[];
    file bytea := pg_read_binary_file(plain);
    part record;
    letter etl_patterns.dead_letter;
    r record;
    n bigint;
BEGIN
    TRUNCATE oracle.ours;
    SELECT * INTO r FROM etl_bulk_copy('oracle.ours', path, header => head,
        delimiter => delim, quote => quo, escape => esc, null_strings => ARRAY[null_string],
        encoding => enc, on_error => 'dead_letter', force => true);
    ours := oracle.rows_of('ours');
    SELECT count(*) INTO n FROM etl_patterns.dead_letter WHERE run_id = r.run_id;
    IF r.rows_read <> r.rows_loaded + r.rows_rejected OR r.rows_rejected <> n OR
        r.rows_loaded <> cardinality(ours) THEN
        RETURN NEXT format('counts: read %s, loaded %s, rejected %s; %s rows, %s dead letters',
            r.rows_read, r.rows_loaded, r.rows_rejected, cardinality(ours), n);
    END IF;

    IF said IS NULL THEN
        IF n > 0 THEN
            SELECT * INTO letter FROM etl_patterns.dead_letter WHERE run_id = r.run_id LIMIT 1;
            RETURN NEXT format('COPY takes the file, we reject %s, first byte %s: %s',
                n, letter.byte_offset, letter.error_message);
        END IF;
        IF ours <> theirs THEN
            RETURN NEXT oracle.difference(ours, theirs);
        END IF;
        RETURN;
    END IF;

    -- What COPY gives up on, we name alike when told to abort; but we read
    -- lines that end in different ways.
    BEGIN
        PERFORM etl_bulk_copy('oracle.ours', path, header => head,
            delimiter => delim, quote => quo, escape => esc, null_strings => ARRAY[null_string],
            encoding => enc, force => true, dry_run => true);
        IF said !~ 'unquoted (newline|carriage return) found in data' THEN
            RETURN NEXT 'we take the file, COPY says ' || said;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        IF said !~ 'unquoted (newline|carriage return) found in data' AND
            said <> SQLSTATE || ' ' || SQLERRM AND NOT oracle.looks_past_cr(said, file) THEN
            RETURN NEXT format('abort: ours %L, theirs %L', SQLSTATE || ' ' || SQLERRM, said);
        END IF;
    END;
    IF mixed THEN
        RETURN;
    END IF;

    -- The file without its rejects is what was loaded.
    part := oracle.remainder(file, r.run_id, enc, 0);
    IF part.problem IS NOT NULL THEN
        RETURN NEXT part.problem;
        RETURN;
    END IF;
    PERFORM oracle.write_file(current_setting('oracle.dir') || '/rest.csv', part.rest);
    said := oracle.copy_says(current_setting('oracle.dir') || '/rest.csv',
                             options || CASE WHEN header THEN ', HEADER true' ELSE '' END);
    theirs := oracle.rows_of('theirs');
    IF said IS NULL AND ours <> theirs THEN
        RETURN NEXT 'rows that are left: ' || oracle.difference(ours, theirs);
    ELSIF said IS NOT NULL AND said !~ 'unquoted (newline|carriage return) found in data' THEN
        RETURN NEXT 'COPY does not take what is left of the file: ' || said;
    END IF;

    -- Each reject is one of COPY's.
    FOR letter IN SELECT * FROM etl_patterns.dead_letter WHERE run_id = r.run_id ORDER BY byte_offset LOOP
        said := oracle.check_letter(letter, file, enc, options);
        IF said IS NOT NULL THEN
            RETURN NEXT said;
        END IF;
    END LOOP;
END
$$;

-- One file by each way to look at its bytes: the same rows, counts and dead
-- letters, to the byte.
CREATE FUNCTION oracle.check_ways(path text, header boolean, delim text, quo text, esc text,
    null_string text, enc name)
RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
    way text;
    r record;
    rows text[];
    letters text[];
    rows_before text[];
    letters_before text[];
BEGIN
    FOREACH way IN ARRAY ARRAY['none', 'portable', 'auto'] LOOP
        TRUNCATE oracle.ours;
        PERFORM set_config('etl_patterns.csv_scan', way, true);
        SELECT * INTO r FROM etl_bulk_copy('oracle.ours', path,
            header => CASE WHEN header THEN 'skip' ELSE 'none' END, delimiter => delim, quote => quo,
            escape => esc, null_strings => ARRAY[null_string], encoding => enc,
            on_error => 'dead_letter', force => true, workers => 0);
        rows := oracle.rows_of('ours') || format('%s read, %s rejected', r.rows_read, r.rows_rejected);
        SELECT coalesce(array_agg((to_jsonb(d) - '{dead_letter_id,run_id,file_id,created_at}'::text[])::text
                                  ORDER BY dead_letter_id), '{}')
            INTO letters FROM etl_patterns.dead_letter d WHERE run_id = r.run_id;
        IF rows <> rows_before THEN
            RETURN NEXT way || ', rows: ' || oracle.difference(rows, rows_before);
        END IF;
        IF letters <> letters_before THEN
            RETURN NEXT way || ', dead letters: ' || oracle.difference(letters, letters_before);
        END IF;
        rows_before := rows;
        letters_before := letters;
        DELETE FROM etl_patterns.dead_letter WHERE run_id = r.run_id;
    END LOOP;
END
$$;

-- The rows of a file, inserted one by one: what became of each.
CREATE FUNCTION oracle.insert_rows(path text, ncols int, on_conflict text)
RETURNS TABLE (row_no bigint, error text)
LANGUAGE plpgsql AS $$
DECLARE
    names text;
    r record;
BEGIN
    SELECT string_agg('f' || i, ', ') INTO names FROM generate_series(1, ncols) i;
    DROP TABLE IF EXISTS pg_temp.stage;
    EXECUTE 'CREATE TEMP TABLE stage (' || replace(names, ',', ' text,') || ' text, n bigserial)';
    EXECUTE format('COPY stage (%s) FROM %L WITH (FORMAT csv)', names, path);
    FOR r IN EXECUTE 'SELECT n, ARRAY[' || names || '] AS fields FROM stage ORDER BY n' LOOP
        row_no := r.n;
        BEGIN
            EXECUTE 'INSERT INTO oracle.theirs VALUES (' ||
                (SELECT string_agg(quote_nullable(f), ', ' ORDER BY i)
                 FROM unnest(r.fields) WITH ORDINALITY u (f, i)) || ')' || on_conflict;
            error := NULL;
        EXCEPTION WHEN OTHERS THEN
            error := SQLSTATE || ' ' || replace(SQLERRM, 'theirs', 'ours');
        END;
        RETURN NEXT;
    END LOOP;
END
$$;

-- The same file into oracle.ours at once, and into oracle.theirs row by row.
CREATE FUNCTION oracle.check_constraints(path text, ncols int, on_conflict text, indexes text)
RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
    r record;
    bad record;
    rows text[];
BEGIN
    SELECT * INTO r FROM etl_bulk_copy('oracle.ours', path, header => 'none',
        on_error => 'dead_letter', on_conflict => on_conflict, indexes => indexes,
        keys => CASE on_conflict WHEN 'error' THEN NULL ELSE ARRAY['c1'::name] END);
    rows := oracle.rows_of('ours');
    FOR bad IN
        WITH theirs AS MATERIALIZED (
            SELECT * FROM oracle.insert_rows(path, ncols,
                CASE on_conflict WHEN 'skip' THEN ' ON CONFLICT (c1) DO NOTHING' ELSE '' END)),
        ours AS (
            SELECT row_no, error_code || ' ' || error_message AS error
            FROM etl_patterns.dead_letter WHERE run_id = r.run_id)
        SELECT row_no, o.error AS ours, t.error AS theirs
        FROM ours o FULL JOIN (SELECT * FROM theirs WHERE error IS NOT NULL) t USING (row_no)
        WHERE o.error IS DISTINCT FROM t.error ORDER BY row_no LIMIT 3
    LOOP
        RETURN NEXT format('row %s: ours %L, theirs %L', bad.row_no,
            coalesce(bad.ours, 'accepted'), coalesce(bad.theirs, 'accepted'));
    END LOOP;
    IF (SELECT array_agg(t ORDER BY t) FROM unnest(rows) t) IS DISTINCT FROM
        (SELECT array_agg(t ORDER BY t) FROM unnest(oracle.rows_of('theirs')) t) THEN
        RETURN NEXT format('%s rows of ours, %s of theirs', cardinality(rows),
            cardinality(oracle.rows_of('theirs')));
    END IF;
    IF on_conflict = 'error' AND r.rows_read <> r.rows_loaded + r.rows_rejected THEN
        RETURN NEXT format('counts: read %s, loaded %s, rejected %s',
            r.rows_read, r.rows_loaded, r.rows_rejected);
    END IF;
END
$$;

CREATE TABLE oracle.parent (id int PRIMARY KEY);
INSERT INTO oracle.parent SELECT generate_series(1, 40);

CREATE FUNCTION oracle.before_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.c2 = 13 THEN
        RAISE EXCEPTION 'unlucky number' USING ERRCODE = 'ETL13';
    ELSIF NEW.c2 = 7 THEN
        NEW.c2 := NULL;
    ELSIF NEW.c2 IS NULL THEN
        NEW.c2 := 5;
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION oracle.after_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.c2 = 17 THEN
        RAISE EXCEPTION 'seen too late: %', NEW.c1 USING ERRCODE = '23514';
    END IF;
    RETURN NULL;
END
$$;
