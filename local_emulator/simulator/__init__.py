"""A server that speaks the exchanges' own wire formats, counts every arrival, and punishes what breaks a limit."""
