"""Many jobs in one folder, by any number of workers on any number of machines.

jobs.py reads rows, plan.py checks them and gives each an id, run_batch.py starts workers through an
engine (engines.py, ray_engine.py, slurm.py), worker.py is the loop of one, leases.py keeps two
from the same row. All state is files (store.py), so the same command goes on after any end.
"""
