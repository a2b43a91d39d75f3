import pytest
from tests.slurm.conftest import Cluster

pytestmark = pytest.mark.slurm


def test_hello(slurm: Cluster) -> None:
    job = slurm.sbatch("--wrap", "sleep 1; echo hi", "--job-name=hi")
    slurm.wait(job, "COMPLETED", timeout=20)
    assert "hi" in slurm.logs(job)
