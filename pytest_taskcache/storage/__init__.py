"""Where records and results are kept: adapters of the storage ports, and their decorators."""
