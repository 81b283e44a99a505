-- Small merges with answers that were written by hand, to check the reference.
-- A line of versions is "from-to:state"; a line of events "time:state", where
-- the state is one letter, and - a delete.

CREATE TABLE reference.known (what text, stored text, events text, late text, expected text, counts text);
INSERT INTO reference.known VALUES
    ('a new key', '', '5:A', 'weave', '5-:A', 'inserted 1'),
    ('a change', '5-:A', '7:B', 'weave', '5-7:A 7-:B', 'closed 1 opened 1'),
    ('no change', '5-:A', '7:A', 'weave', '5-:A', 'unchanged 1'),
    ('there and back', '5-:A', '7:B 9:A', 'weave', '5-7:A 7-9:B 9-:A', 'closed 1 opened 2'),
    ('a new key, in any order', '', '9:A 5:A 7:B', 'weave', '5-7:A 7-9:B 9-:A', 'inserted 1 opened 2'),
    ('a delete', '5-:A', '7:-', 'weave', '5-7:A', 'closed 1 deleted 1'),
    ('a delete of nothing', '', '7:-', 'weave', '', 'unchanged 1'),
    ('a second delete', '5-7:A', '8:-', 'weave', '5-7:A', 'unchanged 1'),
    ('a key comes back', '5-7:A', '9:A', 'weave', '5-7:A 9-:A', 'opened 1 revived 1'),
    ('a key comes back at once', '5-7:A', '7:B', 'weave', '5-7:A 7-:B', 'opened 1 revived 1'),
    ('the end was an error', '5-7:A', '7:A', 'weave', '5-:A', 'corrected 1'),
    ('another row of the same time', '5-7:A 7-:B', '7:C', 'weave', '5-7:A 7-:C', 'corrected 1'),
    ('the same row', '5-7:A 7-:B', '7:B', 'weave', '5-7:A 7-:B', 'unchanged 1'),
    ('corrected to what was before', '5-7:A 7-:B', '7:A', 'weave', '5-:A', 'closed 1 corrected 1'),
    ('deleted as of its start', '5-7:A 7-:B', '7:-', 'weave', '5-7:A', 'closed 1 deleted 1'),
    ('late, inside', '10-:A', '5:B', 'weave', '5-10:B 10-:A', 'late 1'),
    ('late, splits', '5-15:A 15-:C', '12:B', 'weave', '5-12:A 12-15:B 15-:C', 'late 1'),
    ('late, the known end of what it splits', '5-20:A 20-:C', '12:B 15:A', 'weave',
     '5-12:A 12-15:B 15-20:A 20-:C', 'late 2'),
    ('late, as what follows', '5-15:A 15-:C', '12:C', 'weave', '5-12:A 12-:C', 'late 1'),
    ('late, no change', '5-15:A 15-:C', '12:A', 'weave', '5-15:A 15-:C', 'unchanged 1'),
    ('late, before the first and equal', '10-:A', '5:A', 'weave', '5-:A', 'late 1'),
    ('late, fills a gap', '5-10:A 15-:A', '10:A', 'weave', '5-:A', 'closed 1 corrected 1'),
    ('late, in a gap', '5-10:A 15-:A', '12:B', 'weave', '5-10:A 12-15:B 15-:A', 'late 1'),
    ('late delete', '5-15:A 15-:C', '12:-', 'weave', '5-12:A 15-:C', 'late 1'),
    ('late delete of nothing', '5-10:A 15-:C', '12:-', 'weave', '5-10:A 15-:C', 'unchanged 1'),
    ('late delete of a version', '5-10:A 10-15:B 15-:A', '10:-', 'weave', '5-10:A 15-:A', 'deleted 1'),
    ('late correction joins three', '5-10:A 10-15:B 15-:A', '10:A', 'weave', '5-:A', 'closed 1 corrected 1'),
    ('late, after a delete at the end', '5-10:A', '7:B', 'weave', '5-7:A 7-10:B', 'late 1'),
    ('late, ignored', '5-15:A 15-:C', '12:B 15:D', 'ignore', '5-15:A 15-:D', 'corrected 1 late 1'),
    ('late, rejected', '5-15:A 15-:C', '12:B', 'dead_letter', '5-15:A 15-:C', 'rejected 1'),
    ('redelivered', '', '5:A 5:A', 'weave', '5-:A', 'duplicates 1 inserted 1'),
    ('a delete wins a tie', '5-:A', '7:B 7:- 7:C', 'weave', '5-7:A', 'closed 1 deleted 1 duplicates 2'),
    ('the last wins a tie', '5-:A', '7:B 7:C', 'weave', '5-7:A 7-:C', 'closed 1 duplicates 1 opened 1'),
    ('equal neighbours that nothing touches', '1-2:A 2-3:A 3-:B', '5:C', 'weave', '1-2:A 2-3:A 3-5:B 5-:C',
     'closed 1 opened 1');

CREATE FUNCTION reference.check_known() RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
    test reference.known;
    c reference.counts;
    versions text;
    counts text;
BEGIN
    FOR test IN SELECT * FROM reference.known LOOP
        DELETE FROM reference.stored;
        DELETE FROM reference.batch;
        INSERT INTO reference.stored (k, k2, a, valid_from, valid_to)
        SELECT 1, 'x', m[3], reference.day(m[1]::int), reference.day(nullif(m[2], '')::int)
        FROM regexp_matches(test.stored, '(\d+)-(\d*):(\w)', 'g') m;
        INSERT INTO reference.batch (k, k2, a, ts, del, ord)
        SELECT 1, 'x', nullif(m[2], '-'), reference.day(m[1]::int), m[2] = '-', n
        FROM regexp_matches(test.events, '(\d+):(\w|-)', 'g') WITH ORDINALITY AS r (m, n);
        c := reference.scd2(jsonb_build_object('duplicates', 'last', 'null_keys', 'error', 'absent', 'ignore',
                                               'late', test.late));
        SELECT coalesce(string_agg(format('%s-%s:%s', valid_from::date - date '2020-01-01',
                                          valid_to::date - date '2020-01-01', a), ' ' ORDER BY valid_from), '')
        INTO versions FROM reference.expected;
        SELECT string_agg(key || ' ' || value, ' ' ORDER BY key) INTO counts
        FROM jsonb_each_text(to_jsonb(c)) WHERE value <> '0' AND key <> 'rows_read';
        IF versions <> test.expected OR counts <> test.counts THEN
            RETURN NEXT format('%s: %s (%s), not %s (%s)', test.what, versions, counts, test.expected, test.counts);
        END IF;
    END LOOP;
END
$$;
