"""Settings in files: ``.env``, and a TOML file with the settings' names in lower case."""

import difflib
import os
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from kraken_history.errors import UsageError

ENV_FILE = "KRAKEN_HISTORY_ENV_FILE"
"""Environment variable with the path of ``.env``. If it is empty, no such file is read."""

CONFIG = "KRAKEN_HISTORY_CONFIG"
"""Environment variable with the path of the TOML file. If it is empty, no such file is read."""

_USUAL_ENV_FILE, _USUAL_CONFIG = ".env", "kraken-history.toml"


def env_file() -> Path | None:
    """The ``.env`` to read: the one that is named, or that of the current directory. None if there is none."""
    return _chosen(ENV_FILE, _USUAL_ENV_FILE)


def read_toml(known: Collection[str]) -> dict[str, Any]:
    """The settings of the TOML file; none if there is no file.

    Args:
        known: The names of all settings, in lower case.

    Raises:
        UsageError: The file cannot be read, is not TOML, or has a name that is not a setting.
    """
    path = _chosen(CONFIG, _USUAL_CONFIG)
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the settings in {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # Without the cause: its text may quote the line, and with it a password.
        place = f" ({where})" if (where := _place_of(error)) else ""
        raise UsageError(f'expected lines like history_days = 90 or symbols = ["BTC/USDT"] in {path}{place}') from None
    for name in values:
        if name not in known:
            raise UsageError(f"{path}: {name!r} is not a setting: {_advice(name, known)}")
    return values


def chosen_files() -> dict[str, str]:
    """The environment variables with which a process in another directory reads the same files."""
    chosen = {ENV_FILE: env_file(), CONFIG: _chosen(CONFIG, _USUAL_CONFIG)}
    return {name: "" if path is None else str(path.absolute()) for name, path in chosen.items()}


def _chosen(variable: str, usual: str) -> Path | None:
    named = os.environ.get(variable)
    if named is None:
        return Path(usual) if Path(usual).is_file() else None
    if not named:
        return None
    if not Path(named).is_file():
        raise UsageError(f"{variable}: expected the path of a file, got {named!r}")
    return Path(named)


def _place_of(error: Exception) -> str:
    text = str(error)
    return text[text.rindex("(at ") + 1 : -1] if "(at " in text else ""


def _advice(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f"did you mean {near[0]}?" if near else "remove it, or see README's table of settings"
