"""The value digest: the same for equal values in every process, and for no others."""
