"""Pure values and decisions: no database, no HTTP, no clock, no environment."""
