"""Exchanges as data: what differs between them is a spec, what is the same is written once."""
