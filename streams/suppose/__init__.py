"""What one more event would do to a user's vectors: a copy of the state, folded, encoded and not kept."""
