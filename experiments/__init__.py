"""Programs on top of the library: training, evaluation, tables."""
