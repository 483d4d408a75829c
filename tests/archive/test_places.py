"""Where an archive may be."""

from pathlib import Path

import pytest

from kraken_history.archive.place import place_of
from kraken_history.errors import UsageError


def test_a_place_is_a_folder_or_an_object_store(tmp_path: Path) -> None:
    assert place_of(f"file://{tmp_path}/a%20b").shown == f"{tmp_path}/a b"
    assert place_of(str(tmp_path)).shown == str(tmp_path)
    store = place_of("s3://key:secret@bucket/path?region=eu-central-1&endpoint_override=localhost:9000&scheme=http")
    assert store.shown == "s3://bucket/path"
    for uri in ("file://host/path", "ftp://host/path", "s3://"):
        with pytest.raises(UsageError, match="expected"):
            place_of(uri)
