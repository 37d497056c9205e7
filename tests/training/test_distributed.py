import os
import subprocess
import sys
from pathlib import Path

import pytest

BUSY_LEADER = """
import time
from datetime import timedelta
from torch.distributed import distributed_c10d

distributed_c10d.default_pg_timeout = timedelta(seconds=2)  # instead of half an hour
from training.distributed import joined

with joined("cpu") as group:
    with group.leader_first():
        time.sleep(5 if group.leads else 0)
    print("together")
"""


@pytest.mark.slow
def test_processes_wait_for_a_slow_leader(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY_LEADER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["--log-dir", str(tmp_path / "torchrun")]  # the default is in /tmp, where they would remain
    here = os.environ | {"PYTHONPATH": os.getcwd()}  # a script has its own folder on its path
    done = subprocess.run([*launch, tmp_path / "busy.py"], capture_output=True, text=True, timeout=240, env=here)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("together") == 2
