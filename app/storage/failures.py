"""What goes wrong in an object store, in our own words: nothing of obstore's leaves this package."""

import contextlib
import errno
import re
from collections.abc import Iterator

from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from app.errors import BitpressError, NotFound, StorageFull, Unavailable

# obstore hands on only the text of the Rust error below it: ENOSPC (28), EDQUOT (122) and EFBIG (27) of a
# folder, HTTP 507, and the S3 error codes of Ceph, MinIO and others.
_FULL = re.compile(r"os error (27|28|122)\b|\b507 Insufficient Storage\b|QuotaExceeded|StorageFull|InsufficientStorage")

# Likewise EPERM (1), EACCES (13) and EROFS (30): at the end of an upload obstore forgets its classes.
_REFUSED = re.compile(r"os error (1|13|30)\b|status code: (401 Unauthorized|403 Forbidden)")


@contextlib.contextmanager
def translated(*, writing: bool = False) -> Iterator[None]:
    """Turn whatever a store raises inside the block into an error of `app.errors`.

    Where something is written, a thing that is not found is the bucket or the folder itself,
    which makes the store unavailable. TypeError and ValueError pass: they are mistakes of ours.
    """
    try:
        yield
    except (BitpressError, TypeError, ValueError):
        raise
    except Exception as error:
        raise translation(error, writing=writing) from error


def translation(error: Exception, *, writing: bool = False) -> BitpressError:
    """The error of `app.errors` that says what a store's `error` means."""
    text = str(error)
    if _is_full(error, text):
        return StorageFull("No room is left to store this; free some space, then try again.")
    if isinstance(error, FileNotFoundError) and not writing and "NoSuchBucket" not in text:
        return NotFound("The object store does not hold this object (any more).")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError) or _REFUSED.search(text):
        return Unavailable(
            "The object store refuses the service; its operator must check the keys and the rights "
            "to the bucket or folder.",
            code="storage_unavailable",
            retryable=False,
        )
    return Unavailable(
        "The object store cannot be reached or does not answer as it should; try again in a moment.",
        code="storage_unavailable",
    )


def _is_full(error: Exception, text: str) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    return _FULL.search(text) is not None
