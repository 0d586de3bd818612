"""How a sandboxed step can go wrong.

SandboxError
├── SandboxUnavailable      the child could not be started or confined
├── StepFailed              the step failed in a way that it foresaw; the code is the child's
├── StepCrashed             the child died: a signal, or an exit code nobody asked for
├── MemoryLimitExceeded
├── DiskLimitExceeded
├── TimeLimitExceeded
├── ThreadLimitExceeded
├── ProgressLimitExceeded
├── ResultInvalid           what the child answered cannot be used
└── Cancelled               for a `tick` that finds its job cancelled
"""

from app.errors import SandboxError


class SandboxUnavailable(SandboxError):
    code = "sandbox_unavailable"


class StepFailed(SandboxError):
    code = "step_failed"


class StepCrashed(SandboxError):
    """`log_tail` holds the last lines that the child printed; treat them as untrusted text."""

    code = "step_crashed"

    def __init__(self, detail: str, *, log_tail: str = "", retryable: bool = False) -> None:
        super().__init__(detail, retryable=retryable)
        self.log_tail = log_tail


class MemoryLimitExceeded(SandboxError):
    code = "memory_limit_exceeded"


class DiskLimitExceeded(SandboxError):
    code = "disk_limit_exceeded"


class TimeLimitExceeded(SandboxError):
    code = "time_limit_exceeded"


class ThreadLimitExceeded(SandboxError):
    code = "thread_limit_exceeded"


class ProgressLimitExceeded(SandboxError):
    code = "progress_limit_exceeded"


class ResultInvalid(SandboxError):
    code = "result_invalid"


class Cancelled(SandboxError):
    code = "cancelled"
