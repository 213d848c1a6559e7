"""Topics that others fill: what their records are, and how each becomes an event."""
