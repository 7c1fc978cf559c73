"""PaDiM anomaly detection with random projections, on Lightning and Hydra."""

import lazy_loader

# What __init__.pyi names is imported where it is asked for: torch and Lightning take seconds, and
# the command line sets how torch's threads wait before they come.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
