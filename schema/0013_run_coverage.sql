-- A saved run carries the coverage that it was computed on.

ALTER TABLE backtest_runs ADD COLUMN coverage jsonb;
COMMENT ON COLUMN backtest_runs.coverage IS
    'What the run read: {"gaps": "raise", "symbols": {"BTC/USD": {"from": t, "to": t, "proven_s": n, "exchange_s": n, "quiet_s": n, "missing_s": n}}}. Null for a run that was saved before this was kept.';
