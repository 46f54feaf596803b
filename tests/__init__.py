"""The tests. Sets what torch and numpy read of the environment as they are loaded, here and in every child process.

`make test` has a worker of pytest for each core, and many tests have processes of a node's own beside them. With two
threads in each, that spin while they wait for each other (OpenMP's default), tests of training took four times the CPU.
What the environment says already stays.
"""

import os

for _name, _value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}.items():
    os.environ.setdefault(_name, _value)
