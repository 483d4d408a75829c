"""``kraken-history``, also as ``python -m kraken_history``."""

import sys

from kraken_history.cli.loading import EXIT_INTERRUPTED, loading


def main() -> None:
    """Run the command, or say what to install."""
    try:
        with loading():
            from kraken_history.cli.output import prepare_streams

            prepare_streams()
            from kraken_history.cli.app import run
        sys.exit(run())
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "kraken_history":
            raise
        sys.stderr.write(
            f"kraken-history: {error.name} is not installed:"
            " run pip install '.[services,embedded]' in the folder of kraken-history\n"
        )
        sys.exit(2)
    except KeyboardInterrupt:  # just before the command began, or just after it ended
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
