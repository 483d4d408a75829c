"""URLs of databases and Redis servers, as messages may show them."""


def without_password(url: str) -> str:
    """The URL from the host on, which is what a message may show."""
    return str(url).split("://", 1)[-1].rsplit("@", 1)[-1].split("?", 1)[0]
