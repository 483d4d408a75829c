"""docker-compose.yml as docker compose reads it: interpolated, with the environment of each service."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
ENV_FILE = {"DB_PASSWORD": "databasepassword", "REDIS_PASSWORD": "redispassword"}
"""The minimal content of ``.env``."""

_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<plain>\w+)|\{(?P<name>\w+)(?:(?P<operator>:?[-?])(?P<operand>[^}]*))?\})"
)


class ComposeError(Exception):
    """The error with which docker compose would refuse the file."""


def load_compose(env_file: Mapping[str, str] = ENV_FILE) -> dict[str, Any]:
    """The file with this ``.env``.

    Raises:
        ComposeError: A variable that must be set is not.
    """
    raw = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    compose = _interpolated(raw, env_file)
    assert isinstance(compose, dict)
    return compose


def environment_of(service: Mapping[str, Any], env_file: Mapping[str, str] = ENV_FILE) -> dict[str, str]:
    """The environment of the service's container: a name without a value is passed on if it is set."""
    environment: dict[str, str] = {}
    for name, value in service.get("environment", {}).items():
        if value is not None:
            environment[name] = value
        elif name in env_file:
            environment[name] = env_file[name]
    return environment


def _interpolated(node: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(node, str):
        return _VARIABLE.sub(lambda match: _value(match, variables), node)
    if isinstance(node, list):
        return [_interpolated(item, variables) for item in node]
    if isinstance(node, dict):
        return {key: _interpolated(value, variables) for key, value in node.items()}
    return node


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if match["dollar"]:
        return "$"
    name, operator, operand = match["plain"] or match["name"], match["operator"] or "", match["operand"] or ""
    value = variables.get(name)
    if value or (value is not None and not operator.startswith(":")):
        return value
    if operator.endswith("?"):
        raise ComposeError(f"required variable {name} is missing a value: {operand}")
    return operand
