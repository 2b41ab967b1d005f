"""Room for the ``taskcache`` command, which comes with explanations and listings."""
