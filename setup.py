"""What pyproject.toml cannot say: conf/, at the top of the repository, is padim_lit/conf inside."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["padim_lit*"]), "padim_lit.conf"],
    package_dir={"padim_lit.conf": "conf"},
)
