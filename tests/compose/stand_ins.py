"""Stand-ins for the images of docker-compose.yml, made from Debian's packages.

They are for machines that have a container engine but cannot pull images. They have the names and tags that the files
of the project expect, and a label that tells them from the real ones. One root file system, made by debootstrap, serves
all of them. The machine's certificates are in it, because its package indexes may need them.
"""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from tests.support.servers import timescaledb_bin_dir

REPOSITORY = Path(__file__).resolve().parents[2]
_POSTGRES = Path("/usr/lib/postgresql/15")
LABEL = "kraken-history.stand-in"
PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv", "redis-server", "postgresql-15", "procps")
MIRROR = "http://deb.debian.org/debian"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/15/bin"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_PULL_TIMEOUT_S = 60.0
_ROOT = "kraken-history-stand-in:bookworm"

_CONFIGURATION: dict[str, Sequence[str]] = {
    "python": ('CMD ["python3"]', f"ENV SSL_CERT_FILE={CERTIFICATES} PIP_CERT={CERTIFICATES}"),
    "redis": (
        "RUN mkdir /data && chown redis:redis /data",
        "WORKDIR /data",
        "VOLUME /data",
        'ENTRYPOINT ["/entry/redis"]',
    ),
    "timescale/timescaledb": ('ENTRYPOINT ["/entry/postgres"]', "STOPSIGNAL SIGINT"),
}

_REDIS_ENTRY = """#!/bin/sh
# As the real image: only the command redis-server changes to Redis' own account.
set -e
[ "$1" = redis-server ] || exec "$@"
exec setpriv --reuid=redis --regid=redis --init-groups -- "$@"
"""

_POSTGRES_ENTRY = """#!/bin/bash
# Prepare a new data directory with the account and the database that are asked for, then run the server.
set -e
data=/var/lib/postgresql/data
as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"; }
arguments=()
for argument in "$@"; do
    if [ "$argument" = -cshared_preload_libraries=timescaledb ] && ! [ -e /entry/has-timescaledb ]; then continue; fi
    arguments+=("$argument")
done
mkdir -p "$data" /var/run/postgresql
chown postgres:postgres "$data" /var/run/postgresql
chmod 700 "$data"
if ! [ -s "$data/PG_VERSION" ]; then
    password=$(mktemp)
    printf '%s\\n' "$POSTGRES_PASSWORD" > "$password"
    chown postgres "$password"
    as_postgres initdb --pgdata="$data" --username="$POSTGRES_USER" --encoding=UTF8 --locale=C.UTF-8 \\
        --auth-local=trust --auth-host=scram-sha-256 --pwfile="$password"
    rm "$password"
    printf 'host all all all scram-sha-256\\n' >> "$data/pg_hba.conf"
    as_postgres pg_ctl --pgdata="$data" --wait --options="-c listen_addresses='' ${arguments[*]:1}" start
    as_postgres createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
    as_postgres pg_ctl --pgdata="$data" --wait stop
fi
exec setpriv --reuid=postgres --regid=postgres --init-groups -- \\
    postgres -D "$data" -c "listen_addresses=*" "${arguments[@]:1}"
"""


class NoEngineError(Exception):
    """Containers cannot run on this machine; the reason in one line."""


def docker(*arguments: str, timeout_s: float = 600.0, check: bool = True) -> str:
    """Standard output of a docker command.

    Raises:
        AssertionError: The command failed.
    """
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr.strip()[-2000:]}"
    return done.stdout


def require_engine() -> None:
    """Check that the engine answers and has Compose.

    Raises:
        NoEngineError: It does not.
    """
    if shutil.which("docker") is None:
        raise NoEngineError("docker is not installed")
    for arguments in (("info",), ("compose", "version")):
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            raise NoEngineError(f"docker {' '.join(arguments)}: {done.stderr.strip().splitlines()[0]}")


def wanted_images() -> list[str]:
    """The images that Dockerfile and docker-compose.yml name, except our own and pgAdmin's."""
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    pulled = [service["image"] for service in compose["services"].values() if "build" not in service]
    bases = re.findall(r"^FROM (\S+)", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    return [image for image in dict.fromkeys([*bases, *pulled]) if not image.startswith("dpage/")]


def provide_images() -> list[str]:
    """Pull the images, or build stand-ins of those that cannot be pulled; return the stand-ins' names.

    Raises:
        NoEngineError: An image can neither be pulled nor built.
    """
    absent = [image for image in wanted_images() if not _is_here(image) and not _is_pulled(image)]
    if absent:
        _build(absent)
    return [image for image in wanted_images() if _is_stand_in(image)]


def _is_here(image: str) -> bool:
    return bool(docker("image", "ls", "--quiet", image).strip())


def _is_pulled(image: str) -> bool:
    try:
        done = subprocess.run(
            ["docker", "pull", "--quiet", image], capture_output=True, timeout=_PULL_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _is_stand_in(image: str) -> bool:
    labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", image))
    return LABEL in (labels or {})


def _build(images: Iterable[str]) -> None:
    if shutil.which("debootstrap") is None:
        raise NoEngineError("the images cannot be pulled, and debootstrap is not installed to build stand-ins")
    if not _is_here(_ROOT):
        with tempfile.TemporaryDirectory(prefix="kraken-history-stand-in-") as folder:
            root = Path(folder) / "root"
            _bootstrap(root)
            _import(root)
    for image in images:
        _build_on_root(image)


def _build_on_root(image: str) -> None:
    with tempfile.TemporaryDirectory(prefix="kraken-history-stand-in-") as name:
        folder = Path(name)
        entry = folder / "files/entry"
        entry.mkdir(parents=True)
        for service, text in (("redis", _REDIS_ENTRY), ("postgres", _POSTGRES_ENTRY)):
            (entry / service).write_text(text)
            (entry / service).chmod(0o755)
        if "timescaledb" in image:
            _add_timescaledb(folder / "files")
        lines = (f"FROM {_ROOT}", f"LABEL {LABEL}=1", "COPY files /", *_CONFIGURATION[image.split(":")[0]])
        (folder / "Dockerfile").write_text("\n".join(lines))
        docker("build", "--tag", image, name)


def _import(root: Path) -> None:
    with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(
            ["docker", "import", f"--change=ENV PATH={PATH}", "-", _ROOT],
            stdin=tar.stdout, check=True, capture_output=True,
        )  # fmt: skip
    assert tar.returncode == 0


def _bootstrap(root: Path) -> None:
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm", root, MIRROR],
        check=True, capture_output=True, timeout=900,
    )  # fmt: skip
    shutil.rmtree(root / "var/cache/apt")
    for mark in root.glob("usr/lib/python3.*/EXTERNALLY-MANAGED"):
        mark.unlink()  # as in the real image, pip may install beside Debian's packages
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    if Path(CERTIFICATES).exists():
        shutil.copy(CERTIFICATES, root / CERTIFICATES.lstrip("/"))


def _add_timescaledb(folder: Path) -> None:
    """Copy the machine's PostgreSQL and TimescaleDB, if it has both, because each library fits its own server only."""
    bin_dir = timescaledb_bin_dir()
    if bin_dir != _POSTGRES / "bin":
        return
    for installed in (_POSTGRES, Path("/usr/share/postgresql", _POSTGRES.name)):
        shutil.copytree(installed, folder / installed.relative_to("/"), symlinks=True)
    (folder / "entry/has-timescaledb").touch()
