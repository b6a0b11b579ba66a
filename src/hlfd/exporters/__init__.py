"""Formats that a model is exported to: one module each.

A module has ``SUFFIX`` (of its files), ``PRECISIONS`` (those it can write, the usual first), ``build(graph, path)``,
which writes the file, and ``open_file(path, threads)``, which gives a function that runs it on arrays.
"""
