"""The distributions of the project, built as ``pip`` builds them."""

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Literal


def build(source: Path, target: Literal["wheel", "sdist"], folder: Path) -> Path:
    """Build one distribution of the project in ``source`` into ``folder``; return its path."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return path


def contents(wheel: Path) -> dict[str, bytes]:
    """File name → content, of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
