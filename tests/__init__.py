"""Like nodes, tests use one thread for linear algebra: next to other work, a second one costs more than it saves."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded
