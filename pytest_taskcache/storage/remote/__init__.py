"""Storage that others can reach: one store over small adapters, and what is put around it."""
