"""Names of one's own classes: one class each, and what a checkpoint makes them again with."""

import pytest
import torch
from _helpers.paper import paper

from padim_lit import Backbone, Fisher, InputError, Mixture, PerPosition, Projection
from padim_lit.checkpoint.state import load_detector, save_detector
from padim_lit.model.density import DENSITIES
from padim_lit.model.detector import Detector
from padim_lit.model.learned import NPCA
from padim_lit.model.projection import JL, PROJECTIONS, Sparse
from padim_lit.model.registered import require_rebuildable
from padim_lit.model.warm_up import learn


@pytest.fixture(autouse=True)
def registries():
    kept = [(known, dict(known)) for known in (PROJECTIONS, DENSITIES)]
    yield
    for known, before in kept:
        known.clear()
        known.update(before)


@pytest.mark.parametrize(("base", "name"), [(Projection, "jl"), (JL, "jl"), (Mixture, "position")])
def test_a_name_that_is_taken_is_refused(base, name):
    with pytest.raises(InputError, match=f"name='{name}' is that of padim_lit.*choose another"):
        type("Mine", (base,), {"name": name})
    assert PROJECTIONS["jl"] is JL and DENSITIES["position"] is PerPosition


@pytest.mark.parametrize("module", [__name__, "__main__"])
def test_the_same_class_may_be_defined_again(module):
    first, second = (
        type("Mine", (JL,), {"name": "mine", "__module__": where}) for where in (module, __name__)
    )
    assert PROJECTIONS["mine"] is second is not first
    for name, taken in (("Other", "mine"), ("JL", "jl")):  # nor may a script's take ours
        with pytest.raises(InputError, match="choose another name"):
            type(name, (JL,), {"name": taken, "__module__": "__main__"})


@pytest.mark.parametrize("base", [JL, Fisher, Mixture, PerPosition])
def test_a_class_that_would_be_read_as_its_base_is_refused(base):
    nameless = type("Mine", (base,), {})
    sizes = {"in_channels": 20, "dim": 4} if issubclass(base, Projection) else {"dim": 4}
    with pytest.raises(InputError, match="Mine has no name of its own"):
        nameless(**sizes)


def test_arguments_that_a_class_does_not_take_are_not_saved(tmp_path):
    class Wide(PerPosition):
        name = "wide"

        def __init__(self, dim, seed=0, width=2.0, components=3):
            self.width, self.components = width, components
            super().__init__(dim, seed)

    class Plain(Fisher):
        name = "plain"

        def __init__(self, in_channels, dim, seed=0):
            super().__init__(in_channels, dim, seed, fit_images=3)

    backbone = Backbone("test_resnet", weights="random")
    how = paper(4) | {"density": Wide(4, width=3.0)}
    made = Detector(backbone, Plain(backbone.embedding_dim, 4), image_shape=(64, 64), **how)
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    learn(made, lambda count: [{"image": images}])
    made.set_state(made.update_state(made.empty_state(), {"image": images}))
    save_detector(made, tmp_path / "own.ckpt")
    found = load_detector(tmp_path / "own.ckpt")
    assert type(found.density) is Wide and found.density.options["width"] == 3.0
    assert torch.equal(found(images)[0], made.eval()(images)[0])


@pytest.mark.parametrize("base", [Sparse, Fisher, NPCA, PerPosition, Mixture])
def test_a_class_on_ours_keeps_its_own_options_and_those_of_ours_that_it_takes(base):
    takes_dim = issubclass(base, (Mixture, PerPosition))
    if takes_dim:

        def __init__(self, dim, seed=0, shrinkage=3.0, own=1):
            self.own = own
            base.__init__(self, dim, seed, shrinkage=shrinkage)

    else:

        def __init__(self, in_channels, dim, seed=0, own=1):
            self.own = own
            base.__init__(self, in_channels, dim, seed)

    kind = type("Mine", (base,), {"name": "mine", "__init__": __init__})
    made = kind(8, own=5) if takes_dim else kind(20, 8, own=5)
    require_rebuildable(made)
    assert made.options == {"own": 5} | ({"shrinkage": 3.0} if takes_dim else {})


def own_parts(channels):
    """Each of a density and a projection whose checkpoint would decide otherwise, and why."""

    class Scaled(PerPosition):
        name = "scaled"

        def __init__(self, dim, seed=0, shrinkage=0.0, factor=1.0):
            super().__init__(dim, seed, shrinkage)

    class Noted(Mixture):
        name = "noted"

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.register_buffer("scale", torch.ones(()), persistent=False)

    class Shifted(JL):
        name = "shifted"

        def __init__(self, in_channels, dim, seed=0, *, shift, **kwargs):
            super().__init__(in_channels, dim, seed, **kwargs)

    class Turned(JL):
        name = "turned"

        def __init__(self, in_channels, dim, seed=0, angles=(1.0, 2.0)):
            super().__init__(in_channels, dim, seed)
            self.angles = torch.tensor(angles)

    shifted = {"projection": Shifted(channels, 4, shift=1)}
    return {
        "Turned takes angles and.* a number, text or list": {"projection": Turned(channels, 4)},
        "Scaled takes factor and a checkpoint would": {"density": Scaled(4, factor=3.0)},
        "Noted's buffer scale would not be in a checkpoint": {"density": Noted(4)},
        "Shifted takes shift and a checkpoint would": shifted,
    }


@pytest.mark.parametrize("number", range(3))
def test_what_a_checkpoint_would_not_make_again_is_refused_before_the_fit(number):
    backbone = Backbone("test_resnet", weights="random")
    channels = backbone.embedding_dim
    says, own = list(own_parts(channels).items())[number]
    parts = {"projection": JL(channels, 4), "density": PerPosition(4)} | own
    with pytest.raises(InputError, match=says):
        Detector(backbone, **parts)


def test_what_the_arguments_make_again_need_not_be_saved():
    class Constant(PerPosition):
        name = "constant"

        def __init__(self, dim, seed=0, shrinkage=0.0):
            super().__init__(dim, seed, shrinkage)
            self.register_buffer("order", torch.arange(dim), persistent=False)

    backbone = Backbone("test_resnet", weights="random")
    Detector(backbone, JL(backbone.embedding_dim, 4), density=Constant(4))


@pytest.mark.parametrize("buffer", [False, True])
@pytest.mark.parametrize("base", [Fisher, Mixture])
def test_what_is_learnt_and_not_kept_is_refused_before_the_fit(base, buffer):
    def learn_more(self, *given):
        base.learn(self, *given)
        scale = given[0].std()
        if buffer:
            self.register_buffer("scale", scale)
        else:
            self.scale = float(scale)

    mine = type("Mine", (base,), {"name": "mine", "learn": learn_more})
    backbone = Backbone("test_resnet", weights="random")
    channels = backbone.embedding_dim
    if base is Fisher:
        parts = mine(channels, 4), (64, 64), PerPosition(4)
    else:
        parts = JL(channels, 4), (64, 64), mine(4, components=3)
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    made = Detector(backbone, *parts)
    with pytest.raises(InputError, match=r"Mine has learnt scale, which .*: make it a buffer"):
        learn(made, lambda count: [{"image": images}])


def test_a_forward_that_no_checkpoint_knows_is_refused():
    class Grey(Backbone):
        def forward(self, images):
            return super().forward(images.mean(1, keepdim=True).expand_as(images))

    with pytest.raises(InputError, match="Grey has a forward of its own, which no checkpoint"):
        Grey("test_resnet", weights="random")
    type("Named", (Backbone,), {})("test_resnet", weights="random")
