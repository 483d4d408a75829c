"""How calls of Kraken's REST API are spaced: the settings of a limiter, without the limiter."""

from msgspec import Struct

FIRST_BACKOFF_S = 5.0  # after one refusal; it doubles with each further one in a row
LONGEST_BACKOFF_S = 60.0  # unless Kraken names a longer pause


class Pacing(Struct, frozen=True):
    """The settings of a limiter.

    Attributes:
        spacing_s: Between two calls for the same pair.
        total_spacing_s: Between any two calls.
        slowest_spacing_s: Upper bound to which the spacing of a pair grows while Kraken refuses.
    """

    spacing_s: float = 1.0
    total_spacing_s: float = 0.25
    slowest_spacing_s: float = 4.0
    first_backoff_s: float = FIRST_BACKOFF_S
    longest_backoff_s: float = LONGEST_BACKOFF_S

    @property
    def poll_jitter_s(self) -> float:
        """Upper bound of the random delay that keeps callers from polling for the same slot at the same instant."""
        return min(0.01, self.spacing_s / 50)
