"""Fit and test PaDiM: ``python run.py KEY=VALUE ...``; ``python run.py --help`` lists the keys."""

import os
import sys

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from padim_lit import config, experiment
from padim_lit.errors import InputError

config.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def task(cfg: DictConfig) -> None:
    experiment.main(cfg)


def main() -> None:
    # Hydra prints tracebacks in its own way; errors that a user can mend are one line here, and
    # HYDRA_FULL_ERROR=1 shows where they came from.
    debugging = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        task()
    except (InputError, HydraException, OmegaConfBaseException, OSError) as error:
        if debugging:
            raise
        sys.exit(f"error: {experiment.one_line(error)}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
