"""Reading the body of an HTTP answer without trusting its length."""

import aiohttp


class BodyTooLong(Exception):
    """The body of an answer is longer than allowed.

    Attributes:
        beginning: Its first bytes.
    """

    def __init__(self, most_bytes: int, beginning: bytes) -> None:
        super().__init__(f"expected an answer of at most {most_bytes} bytes, got more")
        self.beginning = beginning


async def read_body(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """The body, unpacked if the server compressed it.

    Raises:
        BodyTooLong: It is longer than `most_bytes`, compressed or not.
    """
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > most_bytes:
            raise BodyTooLong(most_bytes, bytes(body[:1000]))
    return bytes(body)
