"""What calibration observed: found again under its key, held as long as it is used, and gone some time after."""

from sqlalchemy import update

from app.db.tables import Observation
from tests.parts.deployment import Deployment

KEY, OTHER = "a" * 64, "b" * 64
RESULT = {"tensors": 3, "samples": 8, "file": "statistics.npz", "notes": []}


def kept(deployment: Deployment, content: bytes, key: str = KEY) -> None:
    observations = deployment.services.observations
    observations.keep(key, RESULT, "statistics.npz", deployment.put(content))


def unused_for(deployment: Deployment, days: float, key: str = KEY) -> None:
    with deployment.database.write() as session:
        session.execute(
            update(Observation)
            .where(Observation.key == key)
            .values(used_at=Observation.used_at - round(days * 86_400_000))
        )


def test_what_was_kept_is_found_under_its_key_alone(deployment: Deployment) -> None:
    kept(deployment, b"observed")
    found = deployment.services.observations.find(KEY)
    assert found is not None
    assert found.result == RESULT
    assert found.file.file_name == "statistics.npz"
    assert deployment.content(found.file.id) == b"observed"
    assert deployment.services.observations.find(OTHER) is None


def test_a_second_one_takes_the_place_of_the_first(deployment: Deployment) -> None:
    kept(deployment, b"first")
    kept(deployment, b"second")
    found = deployment.services.observations.find(KEY)
    assert found is not None
    assert deployment.content(found.file.id) == b"second"
    assert deployment.count(Observation) == 1


def test_its_bytes_stay_as_long_as_it_is_used_and_go_after(deployment: Deployment) -> None:
    kept(deployment, b"observed")
    kept(deployment, b"of another", OTHER)
    for key in (KEY, OTHER):
        unused_for(deployment, 29, key)
    assert deployment.services.observations.find(KEY) is not None  # which is a use
    for key in (KEY, OTHER):
        unused_for(deployment, 2, key)
    assert deployment.services.observations.find(OTHER) is None  # not even before it is swept away
    deployment.services.observations.forget_unused()
    assert deployment.services.observations.find(KEY) is not None
    assert deployment.services.observations.find(OTHER) is None
    for _ in range(2):
        deployment.services.blobs.sweep()
        deployment.age_blobs(2 * 3600)
    deployment.services.blobs.sweep()
    (location,) = deployment.objects()
    assert deployment.services.store.read(location, 100) == b"observed"
