"""What a config's hydra section may name and fill in."""

import pytest
from omegaconf import OmegaConf

from padim_lit import InputError
from padim_lit.cli.hydra_section import require_hydras


def section(**hydra):
    usual = {"job": {"name": "run", "num": "???"}, "verbose": False, "runtime": {"output_dir": "?"}}
    return OmegaConf.create({"seed": 3, "evil": {"a": 1}, "hydra": usual | hydra})


@pytest.mark.parametrize(
    "text",
    [
        "${hydra.runtime.output_dir}/${hydra.job.name}.log", "${hydra:job.num}", "${seed}",
        "${now:%Y-%m-%d}", "${oc.env:HOME}", "${oc.env:HOME,a b}", "%(message)s for $1",
    ],
)  # fmt: skip
def test_texts_are_filled_in(text):
    for part in ("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging"):
        require_hydras(section(**{part: {"a": {"b": [text]}}}))


@pytest.mark.parametrize(
    "text",
    [
        "${oc.decode:'{a: 1}'}", "${oc.create:'{a: 1}'}", "${evil}", "${hydra:}", "${hydra:job}",
        "${hydra.job}", "${.a}", "${..a}", "${oc.select:evil}", "${oc.dict.values:evil}",
        "${oc.env:${seed}}", "${oc.env:HOME,'${evil}'}", "\\${oc.decode:x}", "${${seed}}",
        "$${job_braces}", "${hydra.verbose}", "${hydra.job.name}${hydra.verbose}", "${now:%Y}$",
    ],
)  # fmt: skip
def test_nothing_else_is_filled_in(text):
    for part in ("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging"):
        config = section(**{part: {"a": {"b": [text]}}}, verbose="${oc.decode:'{a: 1}'}")
        config.job_braces = "{oc.decode:x}"
        with pytest.raises(InputError, match=rf"hydra\.{part}\.a\.b\.0=.*write out"):
            require_hydras(config)
        with pytest.raises(InputError, match=rf"hydra\.{part}=.*write out"):
            require_hydras(section(**{part: text}, verbose="${oc.decode:'{a: 1}'}"))


def test_the_section_itself_is_written_out():
    with pytest.raises(InputError, match="write its keys out"):
        require_hydras(OmegaConf.create({"x": {"callbacks": {}}, "hydra": "${x}"}))


@pytest.mark.parametrize(
    "name",
    [
        "hydra.experimental.callbacks.LogJobReturnCallback",
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "padim_lit.cli.experiment.SweepReport",
        "logging.StreamHandler",
        "logging.handlers.RotatingFileHandler",
    ],
)
def test_classes_of_hydra_and_logging_are_named(name):
    require_hydras(section(callbacks={"a": {"_target_": name}}))


@pytest.mark.parametrize(
    "name",
    [
        "hydra.experimental.callbacks.pickle.loads",  # a module that is imported there
        "hydra._internal.core_plugins.basic_launcher.Path",
        "hydra.experimental.callbacks.nothing",
        "logging.handlers.QueueHandler",  # calls what its queue and listener name
        "hydra.experimental.${seed}",
        "os.getcwd",
    ],
)
def test_what_is_only_imported_there_is_not_named(name):
    for key in ("_target_", "class", "()"):
        with pytest.raises(InputError, match="names its own callbacks, launchers"):
            require_hydras(section(job_logging={"handlers": {"a": {key: name}}}))
