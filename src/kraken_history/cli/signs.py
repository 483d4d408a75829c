"""What the services' signs of life mean."""

from collections.abc import Mapping


def is_well(sign: Mapping[str, object]) -> bool:
    """Whether the service called itself healthy."""
    return bool(sign.get("healthy"))


def reason_of(sign: Mapping[str, object]) -> str:
    """Why a service is not well, in its own words."""
    trouble = sign.get("trouble")
    if isinstance(trouble, Mapping):
        trouble = ", ".join(f"{place}: {reason}" for place, reason in trouble.items())
    return str(trouble or "it is connecting")
