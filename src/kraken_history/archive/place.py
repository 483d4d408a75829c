"""Where an archive is: a folder, or an S3-compatible object store. Files are replaced as a whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

import msgspec

from kraken_history.archive.manifest import (
    FORMAT,
    MARKER,
    ArchiveError,
    Manifest,
    Marker,
    decode,
    encode,
    manifest_path,
)
from kraken_history.errors import UsageError
from kraken_history.urls import without_account

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.fs import FileSystem

PART = ".part"
"""Ending of a file that is being written. Such names begin with a dot, so that readers of folders pass over them."""


class Place(Protocol):
    """Files by their paths, relative to the archive."""

    @property
    def shown(self) -> str:
        """The place, as a message may show it: without a password."""

    def read(self, path: str) -> bytes | None:
        """The bytes of a small file; None if there is none."""

    def open(self, path: str) -> "pyarrow.NativeFile":
        """A file for random access; memory-mapped if it is in a folder.

        Raises:
            FileNotFoundError: There is none.
        """

    def put(self, path: str, source: Path) -> None:
        """Create or replace a file by a local one, durably and as a whole."""

    def put_bytes(self, path: str, data: bytes) -> None:
        """As :meth:`put`."""

    def list(self) -> "list[str]":
        """The paths of all files."""

    def delete(self, path: str) -> None:
        """Delete a file."""


class Folder:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def shown(self) -> str:
        """The path."""
        return str(self.folder)

    def read(self, path: str) -> bytes | None:
        """As :meth:`Place.read`."""
        try:
            return (self.folder / path).read_bytes()
        except FileNotFoundError:
            return None

    def open(self, path: str) -> "pyarrow.NativeFile":
        """As :meth:`Place.open`."""
        import pyarrow

        return pyarrow.memory_map(str(self.folder / path))

    def put(self, path: str, source: Path) -> None:
        """As :meth:`Place.put`."""
        with self._replacing(path) as part:
            shutil.copyfile(source, part)

    def put_bytes(self, path: str, data: bytes) -> None:
        """As :meth:`Place.put_bytes`."""
        with self._replacing(path) as part:
            part.write_bytes(data)

    @contextmanager
    def _replacing(self, path: str) -> Iterator[Path]:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}{PART}")
        try:
            yield part
            _sync(part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        _sync(target.parent)

    def list(self) -> "list[str]":
        """As :meth:`Place.list`."""
        return [each.relative_to(self.folder).as_posix() for each in self.folder.rglob("*") if each.is_file()]

    def delete(self, path: str) -> None:
        """As :meth:`Place.delete`."""
        (self.folder / path).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Make a file or the names in a folder durable: retention drops rows because the archive has them."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


class ObjectStore:
    """A file system of pyarrow: S3, or one that speaks its protocol."""

    def __init__(self, files: "FileSystem", root: str, shown: str) -> None:
        self._files = files
        self._root = root.rstrip("/")
        self._shown = shown

    @property
    def shown(self) -> str:
        """As :attr:`Place.shown`."""
        return self._shown

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    def read(self, path: str) -> bytes | None:
        """As :meth:`Place.read`."""
        try:
            with self._files.open_input_file(self._path(path)) as file:
                return file.read()
        except FileNotFoundError:
            return None

    def open(self, path: str) -> "pyarrow.NativeFile":
        """As :meth:`Place.open`."""
        return self._files.open_input_file(self._path(path))

    def put(self, path: str, source: Path) -> None:
        """As :meth:`Place.put`: an object appears when its upload is complete."""
        with source.open("rb") as file, self._files.open_output_stream(self._path(path)) as target:
            shutil.copyfileobj(file, target, 8 * 2**20)

    def put_bytes(self, path: str, data: bytes) -> None:
        """As :meth:`Place.put_bytes`."""
        with self._files.open_output_stream(self._path(path)) as target:
            target.write(data)

    def list(self) -> "list[str]":
        """As :meth:`Place.list`."""
        from pyarrow.fs import FileSelector, FileType

        found = self._files.get_file_info(FileSelector(self._root, allow_not_found=True, recursive=True))
        return [each.path.removeprefix(f"{self._root}/") for each in found if each.type == FileType.File]

    def delete(self, path: str) -> None:
        """As :meth:`Place.delete`."""
        self._files.delete_file(self._path(path))


def place_of(uri: str) -> Place:
    """The place of a path, a ``file://`` URI, or an ``s3://`` URI. Reads and writes nothing there.

    Raises:
        UsageError: The URI is none of these.
    """
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return Folder(Path(uri).expanduser().absolute())
    if scheme == "file":
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise UsageError(f"expected file:///path of this machine, got {uri!r}")
        return Folder(Path(unquote(parts.path)))
    if scheme != "s3" or not rest.strip("/"):
        raise UsageError(f"expected a folder, file:///path or s3://bucket/path, got {without_account(uri)!r}")
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem

    try:
        files, root = FileSystem.from_uri(uri)
    except (ArrowException, OSError, ValueError) as error:
        reason = type(error).__name__  # the message may quote the URI, with its secret
        raise UsageError(
            f"cannot use {without_account(uri)} as an archive ({reason}): expected"
            " s3://bucket/path?region=…&endpoint_override=…, with the keys in AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY"
        ) from None
    if not root:
        raise UsageError(f"expected s3://bucket/path, got {without_account(uri)!r}")
    return ObjectStore(files, root, without_account(uri))


def is_archive(place: Place) -> bool:
    """True if the place has the marker of an archive.

    Raises:
        ArchiveError: The archive is of another format.
    """
    data = place.read(MARKER)
    if data is None:
        return False
    try:
        marker = msgspec.json.decode(data, type=Marker)
    except msgspec.MsgspecError as error:
        raise ArchiveError(f"expected {MARKER} of an archive in {place.shown}, got another file ({error})") from error
    if marker.kraken_history_archive != FORMAT:
        raise ArchiveError(
            f"expected an archive of format {FORMAT} in {place.shown}, got format {marker.kraken_history_archive}:"
            " use the version of kraken-history that wrote it"
        )
    return True


def require_archive(place: Place) -> None:
    """Check that there is an archive.

    Raises:
        ArchiveError: There is none, or one of another format.
    """
    if not is_archive(place):
        raise ArchiveError(f"there is no archive in {place.shown}: write one with `kraken-history archive`")


def make_archive(place: Place) -> None:
    """Make a new archive in an empty place, unless one is there.

    Raises:
        ArchiveError: The place has other files, or an archive of another format.
    """
    if is_archive(place):
        return
    others = [path for path in place.list() if not path.endswith(PART)]
    if others:
        raise ArchiveError(
            f"expected an empty place or an archive of kraken-history, got {place.shown}, which has other files:"
            " name another"
        )
    place.put_bytes(MARKER, msgspec.json.encode(Marker(FORMAT)))


def read_manifest(place: Place, symbol: str) -> Manifest:
    """The manifest of a symbol; an empty one if nothing of it is archived.

    Raises:
        ArchiveError: The file is not its manifest.
    """
    path = manifest_path(symbol)
    data = place.read(path)
    if data is None:
        return Manifest(symbol)
    manifest = decode(data, path)
    if manifest.symbol != symbol:
        raise ArchiveError(f"expected the manifest of {symbol} in {path}, got that of {manifest.symbol}")
    return manifest


def read_manifests(place: Place) -> list[Manifest]:
    """All manifests, by symbol."""
    paths = [path for path in place.list() if path.startswith("manifest/") and path.endswith(".json")]
    found = [decode(data, path) for path in sorted(paths) if (data := place.read(path)) is not None]
    return sorted(found, key=lambda manifest: manifest.symbol)


def write_manifest(place: Place, manifest: Manifest) -> None:
    """Replace the manifest of a symbol."""
    place.put_bytes(manifest_path(manifest.symbol), encode(manifest))
