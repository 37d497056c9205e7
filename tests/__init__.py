"""Like nodes, tests have one thread for linear algebra: beside other work a second one costs more than it saves."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded
