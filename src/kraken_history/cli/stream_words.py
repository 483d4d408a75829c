"""Complaints about streams, in words."""

from kraken_history.stream.backlog import StreamState


def unread_words(state: StreamState, shards: int) -> str:
    """The complaint about a stream that no consumer reads."""
    return (
        f"nobody reads {state.stream}, in which {state.lag + state.pending:,} entries wait: the consumers read"
        f" {shards} shard(s). Set STREAM_SHARDS to the same number in every process"
    )
