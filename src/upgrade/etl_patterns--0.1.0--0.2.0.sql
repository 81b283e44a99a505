\echo Use "ALTER EXTENSION etl_patterns UPDATE TO '0.2.0'" to load this file. \quit

-- What 0.2.0 has and 0.1.0 has not.  Each change of a part of the install script
-- since then has its counterpart here, in the same words, so that both ways lead
-- to the same objects: test/t/002_upgrade.pl compares them.

COMMENT ON FUNCTION etl_dead_letter_replay IS
    'loads or applies pending dead letters again, as the load or the CDC pipeline that rejected them would now';
