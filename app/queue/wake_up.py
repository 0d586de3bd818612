"""Wake-ups: messages that say only "look at this queue".

A message delivered twice, late or never does no harm: the worker claims rows itself, and the sweeper
wakes it again while rows wait. So sending never fails a request.
"""

import logging
import time
from pathlib import Path
from threading import Lock
from urllib.parse import unquote, urlsplit

from celery import Celery

from app.queue.names import task_of

log = logging.getLogger(__name__)

# A wake-up that nobody took for this long is stale: whoever comes looks at the rows anyway.
EXPIRES_SECONDS = 300

REST_SECONDS = 1.0
"""How long a broker that failed is left alone: a request must not wait for each of those before it."""

_CONNECTING: dict[str, object] = {"socket_connect_timeout": 2, "socket_keepalive": True}
_FOR_SENDING = {**_CONNECTING, "socket_timeout": 2}


def broker_settings(url: str) -> dict[str, object]:
    """Celery settings of a broker URL: `redis://`, `redis+socket://` or `filesystem:///folder`."""
    parts = urlsplit(url)
    if parts.scheme != "filesystem":
        return {
            "broker_url": url,
            # A busy worker must not hold back what would wake an idle one.
            "worker_prefetch_multiplier": 1,
            # A message is acknowledged as soon as it is read, so nothing is ever delivered again.
            "broker_transport_options": _CONNECTING,
        }
    folder = Path(unquote(parts.path))
    for name in ("messages", "control"):
        (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
    return {
        "broker_url": "filesystem://",
        # Without an event loop Celery acknowledges only every 2 s, and takes no further message until then. There
        # is one worker a queue here, so taking several at once keeps them from nobody.
        "worker_prefetch_multiplier": 8,
        "broker_transport_options": {
            "data_folder_in": str(folder / "messages"),
            "data_folder_out": str(folder / "messages"),
            "control_folder": str(folder / "control"),
            "polling_interval": 0.05,
        },
    }


class WakeUps:
    """Sends wake-ups; a broker that is down costs a log line, nothing else."""

    def __init__(self, broker_url: str) -> None:
        settings = broker_settings(broker_url)
        if not broker_url.startswith("filesystem:"):
            # A broker that is there and does not answer would otherwise be waited for without end.
            settings["broker_transport_options"] = _FOR_SENDING
        self._celery = Celery("bitpress", set_as_current=False)
        self._celery.conf.update(
            settings,
            task_ignore_result=True,
            task_publish_retry=True,
            # Once more at once: a pooled connection may have died with the last broker.
            task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0},
            broker_connection_timeout=2,
        )
        self._lock = Lock()
        self._rest_until = 0.0

    def send(self, queue: str) -> bool:
        """Ask whoever serves `queue` to look; tells whether the broker took the message."""
        with self._lock:  # the filesystem transport's channel is not safe to share
            # Those who waited for the lock while the broker failed another need not try it one by one.
            if time.monotonic() < self._rest_until:
                return False
            try:
                self._celery.send_task(task_of(queue), queue=queue, expires=EXPIRES_SECONDS, ignore_result=True)
            except Exception as error:  # what some brokers answer (out of memory, read-only) is of no common class
                log.warning("wake-up of %s not sent, the sweeper will: %s", queue, error)
                self._rest_until = time.monotonic() + REST_SECONDS
                return False
        return True

    def check(self) -> None:
        """Raise `OSError` or `OperationalError` unless the broker answers."""
        with self._celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)

    def close(self) -> None:
        """Close the connections."""
        self._celery.close()
