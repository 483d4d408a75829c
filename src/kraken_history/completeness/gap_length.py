"""How long uncovered time must be to count as a gap. Constants only, so that a command's options can name them."""

from datetime import timedelta

MIN_GAP = timedelta(minutes=2)
"""A younger end of the history is no gap yet: it takes a moment to store what was traded just now."""

MIN_GAP_MINUTES = MIN_GAP / timedelta(minutes=1)
LONGEST_MIN_GAP_MINUTES = 1_000_000
"""Nearly two years: whoever leaves longer gaps alone need not look for gaps in time."""
