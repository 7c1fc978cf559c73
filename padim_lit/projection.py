"""Where users' own projections find their base: see `padim_lit.model.projection`."""

from padim_lit.model.learned import NPCA as NPCA
from padim_lit.model.learned import PCA as PCA
from padim_lit.model.learned import Fisher as Fisher
from padim_lit.model.learned import Learned as Learned
from padim_lit.model.projection import JL as JL
from padim_lit.model.projection import PROJECTIONS as PROJECTIONS
from padim_lit.model.projection import Identity as Identity
from padim_lit.model.projection import Orthogonal as Orthogonal
from padim_lit.model.projection import Projection as Projection
from padim_lit.model.projection import Sparse as Sparse
from padim_lit.model.projection import Subset as Subset
