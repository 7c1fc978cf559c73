"""The examples in docstrings run, and every public class and function of the method has one."""

import dataclasses
import doctest
import inspect
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
from _helpers.fits import fitted_detector

import padim_lit.deploy
import padim_lit.model

PACKAGE = Path(padim_lit.__file__).parent
MODULES = ["padim_lit.metrics", "padim_lit.padim"] + [
    f"{package.__name__}.{module.name}"
    for package in (padim_lit.model, padim_lit.deploy)
    for module in pkgutil.iter_modules(package.__path__)
]

# Others have examples where one says more than words; what stands there runs too.
WITH_EXAMPLES = sorted(
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    for file in PACKAGE.rglob("*.py")
    if ">>> " in file.read_text()
)


def issubclass_of(thing, kinds) -> bool:
    return inspect.isclass(thing) and issubclass(thing, kinds)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run(name):
    # What most examples of deploy/ begin with.
    known = {"detector": fitted_detector(), "torch": torch}
    found = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS, extraglobs=known)
    assert found.attempted and not found.failed


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_an_example(name):
    module = import_module(name)
    public = [
        thing
        for key, thing in vars(module).items()
        if not key.startswith("_")
        and (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__ == name
        and not (dataclasses.is_dataclass(thing) or issubclass_of(thing, tuple | Exception))
    ]
    assert [p.__name__ for p in public if ">>>" not in (p.__doc__ or "")] == []
