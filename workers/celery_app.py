"""The Celery application: `celery -A workers.celery_app worker --queues jobs.local` runs a worker."""

from celery import Celery

from app.queue.names import LOOK_FOR_INSPECTIONS, LOOK_FOR_JOBS
from app.queue.wake_up import broker_settings
from app.settings import Settings
from app.wiring import broker_url
from workers import lifecycle
from workers.tasks.looking import look_for_inspections, look_for_jobs

settings = Settings()
celery_app = Celery("bitpress", set_as_current=False)
celery_app.conf.update(
    broker_settings(broker_url(settings)),
    task_ignore_result=True,
    task_acks_late=False,
    worker_concurrency=1,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_proc_alive_timeout=120.0,
    worker_hijack_root_logger=False,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
)


@celery_app.task(name=LOOK_FOR_JOBS)
def jobs_task() -> int:
    """Look for jobs of this worker's target."""
    return look_for_jobs(lifecycle.station())


@celery_app.task(name=LOOK_FOR_INSPECTIONS)
def inspections_task() -> int:
    """Look for uploads to inspect."""
    return look_for_inspections(lifecycle.station())


lifecycle.connect(settings)
