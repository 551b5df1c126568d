"""Benchmarks (layer 7): suites of cells (method x data x seed x post-processing), one JSON line for each, and tables.

Beside ``subspan evaluate`` this is the only place where labels meet predictions.
"""
