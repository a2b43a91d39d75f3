# shellcheck shell=bash
# What differs from site to site, in one place. The job scripts read it on the node; read it in your own shell too
# before you submit (`. slurm/site.sh`): sbatch takes SBATCH_* variables for the options of the same name.

# Who pays, and where jobs run.
# export SBATCH_ACCOUNT=my-account SBATCH_PARTITION=gpu SBATCH_QOS=normal

# GPUs of each node; give --ntasks-per-node the same number, one process each.
# export SBATCH_GPUS_PER_NODE=4

# The software: modules, or a virtual environment ...
# module load cuda
# . "$HOME/venvs/fedpurin/bin/activate"

# ... or a container; `python` is the command that runs Python on a node.
# python=(apptainer exec --nv fedpurin.sif python)
# shellcheck disable=SC2034
python=("${FEDPURIN_PYTHON:-python}")

# Nodes without internet: W&B records offline, without asking the network (upload later: fedpurin sync RUN_DIR).
# export WANDB_MODE=offline
