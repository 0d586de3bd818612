"""What the product does, without HTTP: `Services` holds one of each."""

from dataclasses import dataclass

from app.db.session import Database
from app.queue.wake_up import WakeUps
from app.services.artifacts import Artifacts
from app.services.blobs import Blobs
from app.services.comparison import Comparisons
from app.services.frontier import Frontiers
from app.services.jobs import Jobs
from app.services.observations import Observations
from app.services.sweeper import Sweeper
from app.services.targets import Targets
from app.services.uploads import Datasets, Models
from app.services.work import Work
from app.storage.store import ObjectStore


@dataclass(frozen=True, slots=True)
class Services:
    """All services of one deployment, made by `app.wiring`, shared by the server and the workers."""

    database: Database
    store: ObjectStore
    wake_ups: WakeUps
    blobs: Blobs
    models: Models
    datasets: Datasets
    jobs: Jobs
    artifacts: Artifacts
    targets: Targets
    work: Work
    observations: Observations
    frontiers: Frontiers
    comparisons: Comparisons
    sweeper: Sweeper

    def close(self) -> None:
        """Close every connection."""
        self.wake_ups.close()
        self.database.dispose()
