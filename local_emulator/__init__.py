"""Runs the whole platform on one machine: mongod, functions, scheduler clock and an exchange simulator."""
