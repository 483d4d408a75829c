"""docker-compose.yml, Dockerfile and .env.example, read without a container engine."""

import re
import shlex
import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit

import pytest

from kraken_history.settings import Settings
from tests.support.compose_file import ENV_FILE, REPOSITORY, ComposeError, environment_of, load_compose

OURS = ("migrate", "producer", "consumer", "worker")
LONG_RUNNING = ("timescaledb", "redis", "producer", "consumer", "worker", "pgadmin")
# Given by compose itself, or of no use in a container.
NOT_PASSED_ON = {"KRAKEN_HISTORY_DATA_DIR", "CONSUMER_NAME", "WEB_HOST", "WEB_PORT", "WEB_TOKEN"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return load_compose()


def test_the_file_is_valid_by_the_compose_specification() -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]

    checked = subprocess.run([*checker, REPOSITORY / "docker-compose.yml"], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("missing", sorted(ENV_FILE))
@pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
def test_nothing_starts_without_a_password(missing: str, value: str | None) -> None:
    env_file = {name: secret for name, secret in ENV_FILE.items() if name != missing}
    if value is not None:
        env_file[missing] = value

    with pytest.raises(ComposeError, match=f"set {missing} in .env"):
        load_compose(env_file)


def test_the_example_env_file_names_every_variable_of_the_compose_file() -> None:
    text = (REPOSITORY / "docker-compose.yml").read_text()
    used = set(re.findall(r"\$\{(\w+)", text))
    offered = set(re.findall(r"^#?([A-Z_]+)=", (REPOSITORY / ".env.example").read_text(), re.MULTILINE))

    assert used <= offered


def test_the_example_env_file_brings_no_password_of_its_own() -> None:
    lines = (REPOSITORY / ".env.example").read_text().splitlines()

    assert [line for line in lines if re.match(r"\w*PASSWORD=.", line)] == []


def test_images_are_pinned(compose: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in compose["services"].items()}

    for name, image in images.items():
        _, _, tag = image.partition(":")
        assert re.match(r"\d+\.\d+", tag), f"{name}: {image}"


def test_ports_are_published_on_the_loopback_interface_only(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]

    assert sorted(published) == ["127.0.0.1:5050:80", "127.0.0.1:5433:5432", "127.0.0.1:6380:6379"]


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_a_service_has_a_health_check_restarts_and_bounds_its_log(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]

    assert service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}


def test_named_volumes_keep_what_the_servers_store(compose: dict[str, Any]) -> None:
    mounted = {name: service["volumes"] for name, service in compose["services"].items() if "volumes" in service}

    assert mounted == {
        "timescaledb": ["timescaledb_data:/var/lib/postgresql/data"],
        "redis": ["redis_data:/data"],
        "pgadmin": ["pgadmin_data:/var/lib/pgadmin"],
    }
    assert set(compose["volumes"]) == {"timescaledb_data", "redis_data", "pgadmin_data"}


def test_services_wait_for_what_they_need(compose: dict[str, Any]) -> None:
    needs = {
        name: {other: how["condition"] for other, how in compose["services"][name]["depends_on"].items()}
        for name in OURS
    }

    healthy = {"timescaledb": "service_healthy", "redis": "service_healthy"}
    assert needs == {
        "migrate": {"timescaledb": "service_healthy"},
        "producer": {"redis": "service_healthy"},
        "consumer": healthy | {"migrate": "service_completed_successfully"},
        "worker": healthy | {"migrate": "service_completed_successfully"},
    }
    assert compose["services"]["migrate"]["restart"] == "no"


def test_any_service_can_be_scaled(compose: dict[str, Any]) -> None:
    for name in OURS:
        service = compose["services"][name]
        assert "container_name" not in service
        assert "hostname" not in service
        assert "ports" not in service


def test_pgadmin_starts_only_when_asked_for(compose: dict[str, Any]) -> None:
    profiles = {name: service["profiles"] for name, service in compose["services"].items() if "profiles" in service}

    assert profiles == {"pgadmin": ["tools"]}


@pytest.mark.parametrize("name", OURS)
def test_the_urls_lead_to_the_servers_of_the_file(compose: dict[str, Any], name: str) -> None:
    environment = environment_of(compose["services"][name])
    database, redis = urlsplit(environment["DATABASE_URL"]), urlsplit(environment["REDIS_URL"])
    server = environment_of(compose["services"]["timescaledb"])

    assert (database.hostname, database.port) == ("timescaledb", 5432)
    assert (database.username, database.password) == (server["POSTGRES_USER"], server["POSTGRES_PASSWORD"])
    assert database.path == "/" + server["POSTGRES_DB"]
    assert (redis.hostname, redis.port, redis.username) == ("redis", 6379, "")
    assert redis.password == environment_of(compose["services"]["redis"])["REDISCLI_AUTH"]


def test_redis_loses_nothing_by_itself(compose: dict[str, Any]) -> None:
    (*shell, script) = compose["services"]["redis"]["command"]
    server, _, configuration = script.partition("<<END\n")
    words = shlex.split(server.replace("\\\n", " "))
    options = dict(zip(words[3::2], words[4::2], strict=True))

    assert shell == ["sh", "-c"]
    assert words[:3] == ["exec", "redis-server", "-"]
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert configuration == "requirepass $REDISCLI_AUTH\nEND\n"
    assert environment_of(compose["services"]["redis"])["REDISCLI_AUTH"] == ENV_FILE["REDIS_PASSWORD"]


def test_no_password_is_on_a_command_line(compose: dict[str, Any]) -> None:
    """Every account of the host can read the command lines of containers."""
    for service in compose["services"].values():
        said = str(service.get("command", "")) + str(service.get("healthcheck", ""))
        assert not [password for password in ENV_FILE.values() if password and password in said]


@pytest.mark.parametrize("name", [*OURS, "redis"])
def test_a_service_has_no_rights_that_it_does_not_need(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", OURS)
def test_every_setting_can_be_given_in_the_env_file(compose: dict[str, Any], name: str) -> None:
    passed_on = set(compose["services"][name]["environment"])

    assert passed_on == {field.upper() for field in Settings.model_fields} - NOT_PASSED_ON


def test_services_run_what_the_procfile_runs(compose: dict[str, Any]) -> None:
    lines = (REPOSITORY / "Procfile").read_text().splitlines()
    procfile = dict(line.split(": ", 1) for line in lines if line and not line.startswith("#"))

    commands = {name: " ".join(compose["services"][name]["command"]) for name in OURS}

    assert commands == {"migrate": procfile.pop("release"), **procfile}


def test_the_documented_import_runs_a_service_of_the_compose_file(compose: dict[str, Any]) -> None:
    text = (REPOSITORY / "docs/csv-import.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("docker compose run")]
    words = shlex.split(line)

    mounted = words[words.index("--volume") + 1].split(":")
    service, *command = words[words.index("--volume") + 2 :]
    assert "build" in compose["services"][service]
    assert "DATABASE_URL" in environment_of(compose["services"][service])
    assert command == ["kraken-history", "import-csv", mounted[1]]
    assert mounted[2] == "ro"
