"""PostgreSQL refuses to run as root: start it under another account, without changing parent folders.

The account must still reach its data and the programs, which often live below a folder of mode 0700
(``/root``, a temporary directory). Changing the modes of these folders would be an unrequested change, so
the process keeps one of root's capabilities instead: to read and search everywhere.

PostgreSQL asks access(2) whether it may run its own programs. For an account other than root, access(2) ignores
capabilities, unless the process has the securebit ``no_setuid_fixup``. So the process is given that as well.
"""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kraken_history.errors import UsageError

_CANDIDATES = ("postgres", "nobody")
_CAPABILITIES = (("dac_read_search", 2), ("dac_override", 1))
_SETPCAP_BIT = 8  # the capability to set securebits
_SWITCH = (
    "import os, sys; uid, gid = int(sys.argv[1]), int(sys.argv[2]);"
    " os.setgroups([]); os.setgid(gid); os.setuid(uid); os.execv(sys.argv[3], sys.argv[3:])"
)


@dataclass(frozen=True)
class Account:
    """An account other than root."""

    uid: int
    gid: int


def server_account(data: Path) -> Account | None:
    """The account that must own ``data`` and run PostgreSQL on it; ``None`` for this process's own.

    An existing cluster keeps its owner, unless that is root.

    Raises:
        UsageError: This process is root, and cannot run PostgreSQL under another account.
    """
    if os.geteuid() != 0:
        return None
    if sys.platform == "darwin":
        raise UsageError("PostgreSQL refuses to run as root; run this as an ordinary user")
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    return _first_account()


def check_entry() -> None:
    """Check that this process's account has a name, which ``initdb`` asks for.

    Raises:
        UsageError: It has none, as in a container that was started with ``--user 12345``.
    """
    import pwd  # POSIX only: on other systems ``find_binaries`` raises a clear error first

    uid, gid = os.geteuid(), os.getegid()
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise UsageError(
            f"PostgreSQL's initdb needs a name for user {uid}: add the line kraken:x:{uid}:{gid}::/:/bin/sh"
            " to /etc/passwd, run this as another user, or set DATABASE_URL and REDIS_URL"
        ) from None


def _first_account() -> Account:
    import pwd  # POSIX only: on other systems ``find_binaries`` raises a clear error first

    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise UsageError(
        f"PostgreSQL refuses to run as root and none of the accounts {' and '.join(_CANDIDATES)} exists; "
        "run this as an ordinary user"
    )


@cache
def find_setpriv() -> str | None:
    """Path of util-linux's setpriv. Busybox's setpriv cannot change the account and is ignored."""
    path = shutil.which("setpriv")
    if path is None:
        return None
    usage = subprocess.run([path, "--help"], capture_output=True, text=True, check=False)
    return path if "--reuid" in usage.stdout else None


def as_account(
    argv: Sequence[str],
    account: Account | None,
    *,
    reaching: Sequence[Path],
    find_setpriv: Callable[[], str | None] = find_setpriv,
) -> list[str]:
    """``argv`` that runs the program under ``account``. The started process becomes the program; its pid stays.

    Args:
        argv: The program, as an absolute path, and its arguments.
        account: ``None`` leaves ``argv`` as it is.
        reaching: Paths that the program must be able to reach.
        find_setpriv: Finds util-linux's setpriv. Without it, this Python changes the account.

    Raises:
        UsageError: The account cannot reach one of the paths.
    """
    if account is None:
        return list(argv)
    setpriv = find_setpriv()
    status = Path("/proc/self/status").read_text() if setpriv else ""
    capability = reading_capability(status)
    asks_itself = capability is not None and may_set_securebits(status)
    if not asks_itself:
        _check_reach(account, Path(argv[0]), () if capability else reaching)
    if setpriv is None:
        return [sys.executable, "-IS", "-c", _SWITCH, str(account.uid), str(account.gid), *argv]
    kept = [f"--inh-caps=+{capability}", f"--ambient-caps=+{capability}"] if capability else []
    kept += ["--securebits=+no_setuid_fixup"] if asks_itself else []
    return [setpriv, f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups", *kept, "--", *argv]


def reading_capability(process_status: str) -> str | None:
    """The weakest capability in ``/proc/<pid>/status`` that lets a process read everywhere."""
    effective = _effective_capabilities(process_status)
    return next((name for name, bit in _CAPABILITIES if effective >> bit & 1), None)


def may_set_securebits(process_status: str) -> bool:
    """Whether this process may let access(2) respect the capability that it passes on."""
    return bool(_effective_capabilities(process_status) >> _SETPCAP_BIT & 1)


def _effective_capabilities(process_status: str) -> int:
    for line in process_status.splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _check_reach(account: Account, program: Path, others: Sequence[Path]) -> None:
    for path in (program, *others):
        for blocking in (*path.parents, *([path] if path == program else ())):
            if not _may_search(account, blocking):
                raise UsageError(
                    f"PostgreSQL refuses to run as root, and user {account.uid} cannot reach {path} "
                    f"because of {blocking}; run this as an ordinary user, install util-linux (setpriv), "
                    "or use a folder that every account can enter"
                )


def _may_search(account: Account, folder: Path) -> bool:
    info = folder.stat()
    if info.st_uid == account.uid:
        return bool(info.st_mode & stat.S_IXUSR)
    if info.st_gid == account.gid:
        return bool(info.st_mode & stat.S_IXGRP)
    return bool(info.st_mode & stat.S_IXOTH)
