"""The values everything else speaks in: frozen, comparable, standard library only."""
