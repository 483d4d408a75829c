"""Redis Streams between the producers and the consumers."""
