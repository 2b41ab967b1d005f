"""Bytes from values, and back: one format a module, imported only when it is used."""
