"""Pure decisions: no clock, no client, no files."""
