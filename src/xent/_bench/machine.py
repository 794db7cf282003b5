"""On what it was measured: the processor, the GPU, and who else was there."""

import os
import platform
import re
from pathlib import Path
from typing import Any

import torch


def machine(device: str) -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return {
        "processor": name[1] if name else platform.processor(),
        "architecture": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "system": platform.system(),
        "load before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
