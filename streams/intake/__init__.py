"""The Intake: raw records in, accepted events in Blocks out, and a dead letter for each record that is refused."""
