"""Where a failure happened, in the words that its caller reads."""

import pytest

from app.errors import StepError
from workers.tasks.measuring import told
from workers.tasks.plan import Condition


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (Condition(None, 1, 1), "the original on onnxruntime, with 1 row a call, 1 thread"),
        (Condition({"id": "cnd_a"}, 2, 8, runtime="openvino"), "cnd_a on openvino, with 8 rows a call, 2 threads"),
        (
            Condition(None, 1, 1, "prefill", {"x": [1, 4]}),
            "the original on onnxruntime, in the case 'prefill', 1 thread",
        ),
    ],
)
def test_a_condition_in_words(condition: Condition, said: str) -> None:
    assert condition.text == said


@pytest.mark.parametrize("detail", ["It did not run", "It did not run."])
def test_a_failure_says_where_it_happened(detail: str) -> None:
    with pytest.raises(StepError) as raised, told("while timing the original"):
        raise StepError(detail, code="model_does_not_run", retryable=True)
    assert raised.value.detail == "It did not run. This was while timing the original."
    assert (raised.value.code, raised.value.retryable) == ("model_does_not_run", True)


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(KeyError), told("while timing"):
        raise KeyError("x")
