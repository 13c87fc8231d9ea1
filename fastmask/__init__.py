"""fastmask: exact, fast selective masking for task-adaptive pre-training."""
__version__ = "0.1.0"
