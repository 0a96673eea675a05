"""What pyproject.toml cannot say: `params/` lies beside the package in a clone and inside it in a wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["vdt", "vdt.*"]), "vdt.params"],
    package_dir={"vdt.params": "params"},
    package_data={
        "vdt": ["py.typed", "experiments/slurm_job.sh"],
        "vdt.params": ["**/*.yaml", "**/*.json", "**/*.npz"],
    },
)
