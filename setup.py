"""What pyproject.toml cannot say: conf/, at the top of the repository, is padim_lit/conf inside."""

from setuptools import find_namespace_packages, setup

# Folders without Python too (assets, conf's groups): setuptools warns of each that is not listed.
conf = ["padim_lit.conf", *(f"padim_lit.conf.{name}" for name in find_namespace_packages("conf"))]
setup(
    packages=[*find_namespace_packages(include=["padim_lit*"], exclude=["*.__pycache__"]), *conf],
    package_dir={"padim_lit.conf": "conf"},
)
