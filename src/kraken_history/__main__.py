"""``kraken-history``, also as ``python -m kraken_history``."""

import sys


def main() -> None:
    """Run the command, or say what to install."""
    try:
        from kraken_history.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "kraken_history":
            raise
        sys.stderr.write(
            "kraken-history: install kraken-history[services], with everything that the command needs:"
            f" pip install 'kraken-history[services,embedded]' (there is no {error.name})\n"
        )
        sys.exit(2)
    sys.exit(run())


if __name__ == "__main__":
    main()
