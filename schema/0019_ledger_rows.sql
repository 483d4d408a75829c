-- The ledger as rows: a write touches only those near its own ids, whatever number of ids is missing elsewhere.

CREATE TABLE unheld_ids (
    symbol      text     NOT NULL,
    first_id    bigint   NOT NULL,
    stop_id     bigint   NOT NULL,
    missing     bigint   NOT NULL,
    after_time  timestamptz,
    before_time timestamptz,
    -- The width of the time between the two trades, in steps of four: see find_hole_spans.
    level       smallint NOT NULL GENERATED ALWAYS AS (
        CASE WHEN after_time IS NULL OR before_time IS NULL THEN 13
        ELSE least(13, greatest(0, ceil(
            ln(greatest(abs(extract(epoch FROM before_time - after_time)::float8) / 60, 1)) / ln(4::float8)
        ))) END::smallint
    ) STORED,
    high_time   timestamptz NOT NULL GENERATED ALWAYS AS (
        CASE WHEN after_time IS NULL OR before_time IS NULL THEN 'infinity'
        ELSE greatest(after_time, before_time) END
    ) STORED,
    CHECK (first_id < stop_id AND missing BETWEEN 0 AND stop_id - first_id)
) WITH (fillfactor = 90);
-- The order of the keys finds the newest version first, however many older ones a long snapshot keeps: a hole that is
-- filled from its end gets lower stops, one that is filled from its beginning gets higher first ids.
CREATE UNIQUE INDEX unheld_ids_by_id ON unheld_ids (symbol, stop_id, first_id DESC);
CREATE INDEX unheld_ids_by_time ON unheld_ids (symbol, level, high_time) WHERE missing > 0;
COMMENT ON TABLE unheld_ids IS
    'The ids between the lowest and the highest stored id of a symbol that are not stored: a row per run of such ids.';
COMMENT ON COLUMN unheld_ids.stop_id IS 'The first id after the run. The ids before first_id and at stop_id are stored.';
COMMENT ON COLUMN unheld_ids.missing IS 'Ids of the run that are not absent. If there are any, the run is a hole.';
COMMENT ON COLUMN unheld_ids.after_time IS 'Time of the stored trade before the run; null if it is not known.';
COMMENT ON COLUMN unheld_ids.before_time IS 'Time of the stored trade after the run; null if it is not known.';

CREATE TABLE absent_ids (
    symbol   text   NOT NULL,
    first_id bigint NOT NULL,
    stop_id  bigint NOT NULL,
    PRIMARY KEY (symbol, first_id),
    CHECK (first_id < stop_id)
);
COMMENT ON TABLE absent_ids IS
    'Ids that are not stored and that nothing waits for: the exchange was shown not to have them, or they were refused. A row per run of ids, up to stop_id, which is not one of them.';

CREATE TABLE sync_keys (
    symbol    text NOT NULL,
    data_type text NOT NULL,
    PRIMARY KEY (symbol, data_type)
);
COMMENT ON TABLE sync_keys IS
    'The keys of data_sync_status. Its rows are written often; these never are, so writers lock them.';

ALTER TABLE data_sync_status
    ADD COLUMN lowest_id    bigint,
    ADD COLUMN lowest_time  timestamptz,
    ADD COLUMN highest_id   bigint,
    ADD COLUMN highest_time timestamptz,
    ADD COLUMN writes       bigint NOT NULL DEFAULT 0,
    ADD COLUMN generation   bigint NOT NULL DEFAULT 0,
    DROP CONSTRAINT data_sync_status_pkey,
    ADD PRIMARY KEY (symbol, data_type, generation);
ALTER TABLE data_sync_status SET (fillfactor = 50);
COMMENT ON COLUMN data_sync_status.lowest_id IS 'For trades: the lowest stored id.';
COMMENT ON COLUMN data_sync_status.lowest_time IS 'Time of the trade with the lowest id; null if it is not known.';
COMMENT ON COLUMN data_sync_status.highest_id IS 'For trades: the highest stored id.';
COMMENT ON COLUMN data_sync_status.highest_time IS 'Time of the trade with the highest id; null if it is not known.';
COMMENT ON COLUMN data_sync_status.writes IS 'How often writers of trades and candles have changed the row.';
COMMENT ON COLUMN data_sync_status.generation IS
    'Grows every 64 writes. In order of it, the newest version of the row is found first: there is one row per key, but a long snapshot keeps its older versions.';

INSERT INTO sync_keys SELECT symbol, data_type FROM data_sync_status;
UPDATE data_sync_status
SET lowest_id = lower(id_ranges), highest_id = upper(id_ranges) - 1
WHERE data_type = 'trades' AND NOT isempty(id_ranges);

INSERT INTO absent_ids (symbol, first_id, stop_id)
SELECT symbol, lower(run), upper(run) FROM data_sync_status, unnest(absent_id_ranges - id_ranges) AS run
WHERE data_type = 'trades';

INSERT INTO unheld_ids (symbol, first_id, stop_id, missing)
SELECT r.symbol, r.first_id, r.stop_id, r.stop_id - r.first_id - coalesce(sum(a.stop_id - a.first_id), 0)
FROM (
    SELECT s.symbol, lower(run) AS first_id, upper(run) AS stop_id
    FROM data_sync_status s, unnest(int8multirange(range_merge(s.id_ranges)) - s.id_ranges) AS run
    WHERE s.data_type = 'trades'
) AS r
LEFT JOIN absent_ids a ON a.symbol = r.symbol AND a.first_id >= r.first_id AND a.first_id < r.stop_id
GROUP BY r.symbol, r.first_id, r.stop_id;

DROP FUNCTION ledger_holes(int8multirange, int8multirange);
ALTER TABLE data_sync_status DROP COLUMN id_ranges, DROP COLUMN absent_id_ranges;

-- The trades around a run bound its time. Trades have no index by id, and a transaction locks every partition or chunk
-- that it reads, so these times are looked up after the migration, piece by piece. Until then they are not known.

-- With few rows in the table, the planner takes reading and sorting all versions to be as cheap as a look at the end of
-- the index, which is not so under a long snapshot.
CREATE FUNCTION newest_generation(of_symbol text, of_type text) RETURNS bigint
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    RETURN (
        SELECT generation FROM data_sync_status
        WHERE symbol = of_symbol AND data_type = of_type ORDER BY generation DESC LIMIT 1
    );
END
$$;
COMMENT ON FUNCTION newest_generation IS
    'The generation of a row of data_sync_status, to find the row by: fast also while a snapshot keeps its old versions.';

CREATE FUNCTION unheld_within(of_symbol text, low bigint, high bigint) RETURNS int8multirange
LANGUAGE sql STABLE AS $$
    SELECT int8multirange(int8range(low, high)) - CASE
        WHEN s.lowest_id IS NULL THEN '{}'
        ELSE int8multirange(int8range(s.lowest_id, s.highest_id, '[]')) - coalesce((
            SELECT range_agg(int8range(u.first_id, u.stop_id)) FROM (
                SELECT first_id, stop_id FROM unheld_ids
                WHERE symbol = of_symbol AND stop_id > low AND stop_id <= high
                UNION ALL
                (SELECT first_id, stop_id FROM unheld_ids
                 WHERE symbol = of_symbol AND stop_id > high ORDER BY stop_id, first_id DESC LIMIT 1)
            ) AS u
        ), '{}') END
    FROM data_sync_status s
    WHERE s.symbol = of_symbol AND s.data_type = 'trades' AND s.generation = newest_generation(of_symbol, 'trades')
$$;
COMMENT ON FUNCTION unheld_within IS
    'The ids of [low, high) that are not stored, those before the lowest and after the highest included; null for a symbol that is not known.';

CREATE FUNCTION absent_within(of_symbol text, low bigint, high bigint) RETURNS int8multirange
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce(range_agg(int8range(first_id, stop_id)), '{}') * int8multirange(int8range(low, high))
    FROM absent_ids
    WHERE symbol = of_symbol AND first_id < high AND first_id >= coalesce(
        (SELECT max(first_id) FROM absent_ids WHERE symbol = of_symbol AND first_id <= low), low)
$$;
COMMENT ON FUNCTION absent_within IS 'The ids of [low, high) that are absent.';

CREATE FUNCTION missing_within(of_symbol text, low bigint, high bigint) RETURNS int8multirange
LANGUAGE sql STABLE AS $$
    SELECT unheld_within(of_symbol, low, high) - absent_within(of_symbol, low, high)
$$;
COMMENT ON FUNCTION missing_within IS 'The ids of [low, high) that are neither stored nor absent, as unheld_within.';

CREATE FUNCTION is_held(of_symbol text, id bigint) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT coalesce(isempty(unheld_within(of_symbol, id, id + 1)), false)
$$;
COMMENT ON FUNCTION is_held IS 'True if the ledger has this id.';

CREATE FUNCTION held_ids(of_symbol text) RETURNS int8multirange
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN s.lowest_id IS NULL THEN '{}' ELSE
        int8multirange(int8range(s.lowest_id, s.highest_id, '[]')) - coalesce((
            SELECT range_agg(int8range(first_id, stop_id)) FROM unheld_ids WHERE symbol = of_symbol
        ), '{}') END
    FROM data_sync_status s
    WHERE s.symbol = of_symbol AND s.data_type = 'trades' AND s.generation = newest_generation(of_symbol, 'trades')
$$;
COMMENT ON FUNCTION held_ids IS
    'All stored ids of a symbol. It takes as long as there are runs of unheld ids: the other functions look up a few.';

GRANT SELECT ON unheld_ids, absent_ids, sync_keys TO kraken_reader, kraken_writer;
GRANT INSERT, UPDATE, DELETE ON unheld_ids, absent_ids TO kraken_writer;
-- SELECT … FOR UPDATE needs the right to update.
GRANT INSERT, UPDATE ON sync_keys TO kraken_writer;
GRANT EXECUTE ON FUNCTION newest_generation(text, text), unheld_within(text, bigint, bigint), absent_within(text, bigint, bigint),
    missing_within(text, bigint, bigint), is_held(text, bigint), held_ids(text) TO kraken_reader, kraken_writer;
