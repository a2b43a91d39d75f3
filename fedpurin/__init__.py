"""fedpurin: a simulator for communication-efficient personalised federated learning."""

__version__ = "0.1.0"
