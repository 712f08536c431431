"""Experiments as data: run the book's notebooks in batch, collect their metrics, report them."""
