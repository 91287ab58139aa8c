"""What is used of Dask outside its clusters; Dask reads its configuration files when it is first imported."""

from __future__ import annotations

from melzarr.pipeline.errors import CallError

try:
    from dask.system import CPU_COUNT
    from dask.utils import parse_bytes, parse_timedelta
except ValueError as error:  # a file that is no YAML, or no mapping
    raise CallError(f"{' '.join(str(error).split())}; fix or remove this file") from error

__all__ = ["CPU_COUNT", "parse_bytes", "parse_timedelta"]
