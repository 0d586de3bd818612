"""The populations that intervals were made with: their methods and constants were chosen by what is seen here."""

from benchmarks.coverage.drawing import (
    BOXES,
    LOGITS,
    Detected,
    calibrated,
    classified,
    embedded,
    followed,
    log_normal,
    numbers,
    segmented,
    sequences,
    signed_log_normal,
    student,
    tokens,
    two_classes,
)
from benchmarks.coverage.simulation import Design, Population, clopper_pearson, delong
from benchmarks.coverage.simulation import student as exact_mean

DESIGNS = (Design(140), Design(500), Design(140, 4, 0.5))

_PICTURES = Detected((0.6, 0.3, 0.1))
RARE = (0.3, 0.25, 0.2, 0.1, 0.05, 0.05, 0.05)

POPULATIONS: tuple[Population, ...] = (
    Population("top1", "nine in ten", classified("top1"), exact=clopper_pearson),
    Population("top1", "near 1", classified("top1", margin=4.6), exact=clopper_pearson),
    Population("top1", "one in thousands wrong", classified("top1", margin=5.5), exact=clopper_pearson),
    Population("top1", "near 0", classified("top1", margin=-0.7), exact=clopper_pearson),
    Population("top5", "near 1", classified("top5", margin=2.5), exact=clopper_pearson),
    *(
        Population(metric, name, classified(metric, options, **more), options or {})  # type: ignore[arg-type]
        for metric, options in (
            ("f1", None),
            ("f1", {"average": "weighted"}),
            ("f1", {"average": "micro"}),
            ("balanced_accuracy", None),
            ("worst_class", None),
        )
        for name, more in (
            (f"{(options or {}).get('average', '')} even classes".strip(), {}),
            (f"{(options or {}).get('average', '')} rare classes".strip(), {"shares": RARE, "harmed": 3}),
            (
                f"{(options or {}).get('average', '')} rare, near 1".strip(),
                {"shares": RARE, "margin": (4.6, 4.6, 4.6, 4.6, 4, 4, 3.5)},
            ),
        )
    ),
    Population("auc", "even", two_classes(1.8, 0.5), LOGITS, delong),
    Population("auc", "rare positives", two_classes(1.8, 0.08), LOGITS, delong),
    Population("auc", "near 1", two_classes(3.5, 0.3), LOGITS, delong),
    Population("auc", "five classes", classified("auc", LOGITS, shares=(0.4, 0.3, 0.1, 0.1, 0.1), margin=2.0), LOGITS),
    Population("ece", "too sure", calibrated(5, 1.8), LOGITS),
    Population("ece", "calibrated", calibrated(5, 1.0), LOGITS),
    Population("mae", "normal errors", numbers("mae"), exact=exact_mean),
    Population("mae", "very heavy tails", numbers("mae", errors=signed_log_normal), exact=exact_mean),
    Population("rmse", "normal errors", numbers("rmse")),
    Population("rmse", "heavy tails", numbers("rmse", errors=student(5))),
    Population("rmse", "very heavy tails", numbers("rmse", errors=signed_log_normal)),
    Population("r2", "normal errors", numbers("r2")),
    Population("r2", "heavy tails", numbers("r2", errors=student(5))),
    Population("r2", "very heavy tails", numbers("r2", errors=signed_log_normal)),
    Population("pearson", "0.9", numbers("pearson")),
    Population("pearson", "0.3", numbers("pearson", error=3.0)),
    Population("pearson", "very heavy tails", numbers("pearson", errors=signed_log_normal)),
    Population("spearman", "0.9", numbers("spearman")),
    Population("spearman", "0.3", numbers("spearman", error=3.0)),
    Population("spearman", "ranks of five", numbers("spearman", ranks=True)),
    Population("token_accuracy", "nine in ten", sequences("token_accuracy", 0.06)),
    Population("token_accuracy", "near 1", sequences("token_accuracy", 0.0012)),
    Population("cer", "a tenth", sequences("cer", 0.06)),
    Population("cer", "near 0", sequences("cer", 0.0012)),
    Population("wer", "a third", sequences("wer", 0.2), {"separator": 0}),
    Population("exact_match", "a half", sequences("exact_match", 0.025), exact=clopper_pearson),
    Population("perplexity", "even texts", tokens(log_normal(0.2))),
    Population("perplexity", "uneven texts", tokens(log_normal(0.6))),
    Population("next_token", "near 1", sequences("next_token", 0.006)),
    Population("coco_map", "three classes", _PICTURES.draw, BOXES, truth=_PICTURES.truth),
    Population("miou", "five classes", segmented()),
    Population("retrieval_recall", "20 classes", embedded(20, 1.5), truth_rows=0),
    Population("agreement", "near 1", followed("agreement"), exact=clopper_pearson),
    Population("agreement", "nine in ten", followed("agreement", 0.4), exact=clopper_pearson),
    *(
        Population(metric, name, followed(metric, loudness=loud), exact=None if metric == "sqnr_db" else exact_mean)
        for metric in ("sqnr_db", "cosine", "kl")
        for name, loud in (
            ("even noise", None),
            ("loud rows", log_normal(0.5)),
            ("very loud rows", log_normal(1.0)),
        )
    ),
    Population("max_error", "even noise", followed("max_error")),
)
