"""Slow transcriptions of published equations, to test the fast versions against."""
