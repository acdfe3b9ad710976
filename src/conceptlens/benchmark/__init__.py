"""Suites of measurements with controls: protocols, runs that go on after a break, tables that say what is real."""
