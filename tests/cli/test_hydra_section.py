"""What a config's hydra section may name, however the name comes there."""

import logging

import pytest
from hydra.core.utils import configure_log
from hydra.utils import instantiate
from omegaconf import OmegaConf

from padim_lit import InputError
from padim_lit.cli import hydra_internals, hydra_section

HYDRAS = [
    "hydra.experimental.callbacks.LogJobReturnCallback",
    "padim_lit.cli.experiment.SweepReport",
    "logging.StreamHandler",
    "logging.handlers.MemoryHandler",
]
STRANGE = [
    "hydra.experimental.callbacks.pickle.loads",  # a module that is imported there
    "hydra._internal.core_plugins.basic_launcher.Path",
    "hydra.experimental.callbacks.nothing",
    "logging.handlers.QueueHandler",  # calls what its queue and listener name
    "hydra.utils.get_method",
    "os.getcwd",
]
WAYS = ["{name}", "${{oc.decode:'{name}'}}", "${{name}}", "${{oc.select:name}}"]


@pytest.fixture(autouse=True)
def guarded(monkeypatch):
    for module in hydra_internals.LOOKING_UP:
        monkeypatch.setattr(module, "_authorize_target_name", module._authorize_target_name)
    # What configures logging silences the loggers that there are, of all tests after it.
    monkeypatch.setattr(logging.root, "handlers", logging.root.handlers[:])
    for logger in logging.Logger.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            monkeypatch.setattr(logger, "disabled", logger.disabled)
    hydra_section.guard()


def section(part: object, name: str) -> object:
    return OmegaConf.create({"name": name, "hydra": {"part": part}}).hydra.part


@pytest.mark.parametrize("name", HYDRAS)
def test_classes_of_hydra_and_logging_are_made(name):
    kwargs = {"capacity": 1} if "Memory" in name else {}
    made = instantiate(section({"_target_": "${name}", **kwargs}, name))
    assert type(made).__name__ == name.rpartition(".")[2]


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("way", WAYS)
def test_nothing_else_is_made(name, way):
    text = way.format(name=name)
    for part in ({"_target_": text}, {"a": [{"_target_": text}]}):
        with pytest.raises(InputError, match=r"hydra\.part.*names its own callbacks, launchers"):
            instantiate(section(part, name))


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("handlers", {"class": "${name}"}),
        ("handlers", {"()": "${name}"}),
        ("handlers", {"class": "logging.StreamHandler", "stream": "ext://${name}"}),
        ("formatters", {"class": "${name}"}),
        ("formatters", {"()": "${name}"}),
        ("filters", {"()": "${name}"}),
    ],
)
def test_loggers_name_nothing_else_either(name, kind, part):
    log = {"version": 1, "root": {}, kind: {"a": part}}
    with pytest.raises(ValueError, match="Unable to configure") as error:
        configure_log(section(log, name))
    assert isinstance(error.value.__cause__, InputError)


def test_the_usual_loggers_are_made():
    handler = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}
    log = {"version": 1, "root": {"handlers": ["a"]}, "handlers": {"a": handler}}
    configure_log(section(log, ""))
