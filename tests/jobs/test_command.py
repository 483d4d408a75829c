"""The worker as the Procfile starts it: what it cannot use is said in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({}, "worker: REDIS_URL is not set"),
        ({"REDIS_URL": "redis://127.0.0.1:1/0", "LOG_LEVEL": "loud"}, "worker: LOG_LEVEL: "),
    ],
)
def test_a_setting_that_will_not_do_is_one_line_and_exit_code_2(environment: dict[str, str], line: str) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    ended = subprocess.run(
        [sys.executable, "-m", "arq", "jobs.worker.WorkerSettings"],
        cwd=REPOSITORY,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert ended.returncode == 2
    assert ended.stderr.startswith(line)
    assert ended.stderr.count("\n") == 1


def test_a_database_that_is_not_set_is_one_line_and_exit_code_2(redis_url: str) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    ended = subprocess.run(
        [sys.executable, "-m", "arq", "jobs.worker.WorkerSettings"],
        cwd=REPOSITORY,
        env=kept | {"REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert ended.returncode == 2
    assert "worker: DATABASE_URL is not set" in ended.stderr
    assert "Traceback" not in ended.stderr
