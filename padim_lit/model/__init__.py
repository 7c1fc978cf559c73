"""The method: backbone, projection, embedding, moments, Gaussians, anomaly map.

Symbols (B, C, D, G, Π, Σ, …), equation numbers and what "the JL report" is: docs/method.md.
"""

# So that every projection and density has registered its name wherever a checkpoint is read.
from padim_lit.model import both as both
from padim_lit.model import learned as learned
from padim_lit.model import mixture as mixture
