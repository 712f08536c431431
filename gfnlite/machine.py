"""What a result was made on, as far as the process itself can say."""

import os
import platform
import resource
import sys

import torch

__all__ = ["device_name", "machine", "peak_memory"]


def device_name() -> str:
    """Name of the GPU that is used by default, or cpu."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def machine() -> dict:
    """Versions, device and driver, the flags that change rounding, and peak memory in bytes."""
    on_gpu = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "device": device_name(),
        "cuda": torch.version.cuda if on_gpu else None,
        "driver": _driver() if on_gpu else None,
        "threads": torch.get_num_threads(),
        "tf32": on_gpu and torch.backends.cuda.matmul.allow_tf32,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "peak_memory": peak_memory(),
        "peak_gpu_memory": torch.cuda.max_memory_allocated() if on_gpu else None,
    }


def peak_memory(whose: int = resource.RUSAGE_SELF) -> int:
    """Most bytes of memory that this process had at once, or the largest of its children."""
    peak = resource.getrusage(whose).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux says KiB


def _driver() -> str | None:
    import subprocess

    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.split("\n")[0].strip() or None
