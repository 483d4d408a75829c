-- Who may do what: kraken_reader reads market data and keeps results of backtests, kraken_writer stores as well.
-- Roles belong to the whole cluster, and another database of it may be migrated at this moment. What a later
-- migration makes, it grants itself: see docs/roles.md.

DO $$
DECLARE
    wanted text;
    missing text := (
        SELECT string_agg(format('CREATE ROLE %I NOLOGIN', r), '; ' ORDER BY r)
        FROM unnest(ARRAY['kraken_reader', 'kraken_writer']) AS r
        WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r)
    );
BEGIN
    FOREACH wanted IN ARRAY ARRAY['kraken_reader', 'kraken_writer'] LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = wanted);
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN
                NULL;  -- made a moment ago, for another database
            WHEN insufficient_privilege THEN
                RAISE EXCEPTION '% may not create roles: have a superuser run `%`, then migrate again',
                    current_user, missing;
        END;
    END LOOP;

    EXECUTE format('GRANT USAGE ON SCHEMA %I TO kraken_reader, kraken_writer', current_schema);
    -- Partitions are made by the owner of their table, whoever asks. The function finds nobody else's objects in
    -- this search_path, and does nothing to a table of which it has no width.
    EXECUTE format(
        'ALTER FUNCTION ensure_partitions(text, timestamptz[]) SECURITY DEFINER SET search_path = %I, pg_temp',
        current_schema
    );

    -- Below the views of the longer intervals, where there are no continuous aggregates.
    FOR wanted IN
        SELECT relname FROM pg_class
        WHERE relnamespace = current_schema::regnamespace AND relname IN (SELECT name || '_rows' FROM candle_aggregates)
    LOOP
        EXECUTE format('GRANT SELECT ON %I TO kraken_reader, kraken_writer', wanted);
    END LOOP;
END
$$;

GRANT SELECT ON
    trades, candles, candles_5m, candles_15m, candles_30m, candles_1h, candles_4h, candles_12h, candles_1d, candles_1w,
    external_indicators, data_sync_status, candle_aggregates, backfills, backtest_runs, schema_migrations
    TO kraken_reader, kraken_writer;
GRANT INSERT ON backtest_runs TO kraken_reader, kraken_writer;
GRANT EXECUTE ON FUNCTION ledger_holes(int8multirange, int8multirange) TO kraken_reader, kraken_writer;

GRANT INSERT ON trades TO kraken_writer;
GRANT INSERT, UPDATE ON candles, external_indicators, data_sync_status, backfills TO kraken_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON absence_evidence TO kraken_writer;

REVOKE EXECUTE ON FUNCTION ensure_partitions(text, timestamptz[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ensure_partitions(text, timestamptz[]) TO kraken_writer;
