"""The length from which uncovered time counts as a gap. Constants only, so that command options can import them."""

from datetime import timedelta

MIN_GAP = timedelta(minutes=2)
"""Minimum length of a gap. The last moments are not a gap yet, because it takes time to store new trades."""

MIN_GAP_MINUTES = MIN_GAP / timedelta(minutes=1)
LONGEST_MIN_GAP_MINUTES = 1_000_000
"""Upper bound for ``min_gap_minutes``: nearly two years. Larger values would disable time gaps altogether."""
