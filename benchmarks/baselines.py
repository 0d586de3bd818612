"""Real models through `kind: evaluate`, each with its own metric, beside a plain script that computes the same.

`python -m benchmarks.baselines [lite0 minilm smollm2 magika pitch]`. Every line is one metric: what the service said,
with its interval, what plain onnxruntime and NumPy (or SciPy) give on the same rows, and what is known of the model.
Latency is told too, and is only as good as the machine is quiet.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks import real_models
from benchmarks.models import lite0, minilm, smollm2, tuxpaint
from benchmarks.models.workload import lines
from tests.parts.service import Service, running_service

Arrays = Mapping[str, NDArray[Any]]
Asked = dict[str, Any]

_WINDOWS = 8
"""Of SmolLM2: one window's logits are 100 MB."""
_PIECES = 16


def of_lite0(service: Service, folder: Path) -> None:
    """All 560 views; 4 of each photograph, so that photographs are the groups."""
    parts = [tuxpaint.views(split) for split in ("calibration", "evaluation")]
    pixels = np.concatenate([part.pixels for part in parts])
    accepted = [labels for part in parts for labels in part.accepted]
    most = max(map(len, accepted))
    labels = np.array([[*sorted(each), *[-1] * (most - len(each))] for each in accepted])
    offset = parts[0].photographs.max() + 1
    groups = np.concatenate([parts[0].photographs, parts[1].photographs + offset])
    images = np.concatenate([lite0.feed(each)["image"] for each in pixels])
    model = lite0.build()
    rows = {"image": images, "labels": labels, "groups": groups}
    logits = np.concatenate([plain(model, {"image": image[np.newaxis]})["logits"] for image in images])
    order = np.argsort(-logits, axis=1, kind="stable")
    plainly = {
        name: float(
            np.mean([bool(set(row[:count].tolist()) & set(right)) for row, right in zip(order, accepted, strict=True)])
        )
        for name, count in (("top1", 1), ("top5", 5))
    }
    shown("lite0", service, folder, model, rows, ["top1", "top5"], plainly, {"top1": 0.811, "top5": 0.941})


def of_minilm(service: Service, folder: Path) -> None:
    """Pairs of Lee's documents and of words, the two of a pair after one another."""
    judged = np.loadtxt(minilm.package("gensim", "test", "test_data", "similarities0-1.txt"))
    documents = lines("lee.cor")
    first, second = np.triu_indices(len(documents), k=1)
    lee = [
        (documents[one], documents[other], float(judged[one, other])) for one, other in zip(first, second, strict=True)
    ]
    words = minilm.word_pairs("wordsim353.tsv")
    model = minilm.build()
    for name, pairs, metric, known in (("lee", lee, "pearson", 0.656), ("wordsim353", words, "spearman", 0.729)):
        texts = [text for one, other, _ in pairs for text in (one, other)]
        feeds = minilm.feeds(texts)
        rows = padded(feeds) | {"labels": np.repeat([pair[2] for pair in pairs], 2)}
        seen = {text: plain(model, feed)["embedding"][0] for text, feed in zip(texts, feeds, strict=True)}
        cosines = [float(seen[one] @ seen[other]) for one, other, _ in pairs]
        people = [pair[2] for pair in pairs]
        found = np.corrcoef(cosines, people)[0, 1] if metric == "pearson" else spearmanr(cosines, people).statistic
        asked = [{"name": metric, "output": "embedding", "options": {"pairs": "rows"}}]
        shown(f"minilm on {name}", service, folder, model, rows, asked, {metric: float(found)}, {metric: known})


def of_smollm2(service: Service, folder: Path) -> None:
    """Perplexity of windows of news; no cache is given, so that each begins without a past."""
    model = smollm2.build()
    packed = folder / "smollm2.zip"
    archive(packed, [model, model.with_name(model.name + ".data")])
    windows = smollm2.windows("evaluation")[:_WINDOWS]
    labels = np.concatenate([windows[:, 1:], np.full((len(windows), 1), -100)], axis=1)
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    logits = (session.run(["logits"], dict(smollm2.feed(row)))[0][0] for row in windows)
    nats = [smollm2.negative_log_likelihood(found, row) for found, row in zip(logits, windows, strict=True)]
    asked = [{"name": "perplexity", "output": "logits"}, {"name": "token_accuracy", "output": "logits"}]
    rows = {"input_ids": windows, "labels": labels}
    plainly = {"perplexity": float(np.exp(np.concatenate(nats).mean()))}
    shown("smollm2", service, folder, packed, rows, asked, plainly, {"perplexity": "29.76 on 32 windows"})


def of_magika(service: Service, folder: Path) -> None:
    """Files of this machine, with what their names say they are."""
    rows, model = real_models.magika_rows()
    scores = np.concatenate([plain(model, {"bytes": row[np.newaxis]})["target_label"] for row in rows["bytes"]])
    plainly = {"top1": float((scores.argmax(axis=1) == rows["labels"]).mean())}
    shown("magika", service, folder, model, rows, ["top1"], plainly, {"top1": "0.92 on a machine's own files"})


def of_pitch(service: Service, folder: Path) -> None:
    """One network as ONNX and as TFLite, on noise: the mean error of the one beside the other's outputs."""
    place = real_models.PACKAGES / "basic_pitch" / "saved_models" / "icassp_2022"
    model = place / "nmp.onnx"
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    [port] = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in port.shape]
    sound = np.random.default_rng(0).standard_normal((_PIECES, *shape[1:])).astype(np.float32) * 0.1
    output = session.get_outputs()[0].name
    truth = np.concatenate([session.run([output], {port.name: one[np.newaxis]})[0] for one in sound])
    for file in (model, place / "nmp.tflite"):
        uploaded = service.upload("models", file)
        [given] = uploaded["inputs"]
        same = next(each["name"] for each in uploaded["outputs"] if tuple(each["shape"][1:]) == truth.shape[1:])
        rows = {given["name"]: sound, "labels": truth}
        shown(
            f"pitch as {file.suffix[1:]}",
            service,
            folder,
            file,
            rows,
            [{"name": "mae", "output": same}],
            {},
            {"mae": "about 1e-6"},
        )


def padded(feeds: list[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Texts of different lengths as rows of one; what is added is masked."""
    longest = max(feed["input_ids"].shape[1] for feed in feeds)
    return {
        name: np.concatenate([np.pad(feed[name], ((0, 0), (0, longest - feed[name].shape[1]))) for feed in feeds])
        for name in feeds[0]
    }


_SESSIONS: dict[Path, ort.InferenceSession] = {}


def plain(model: Path, feed: Arrays) -> dict[str, NDArray[Any]]:
    """All outputs of one call, by onnxruntime alone."""
    if model not in _SESSIONS:
        _SESSIONS[model] = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    session = _SESSIONS[model]
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feed)), strict=True))


def archive(path: Path, files: list[Path]) -> None:
    """Put the files of a model into one `.zip`."""
    import zipfile

    with zipfile.ZipFile(path, "w") as packed:
        for file in files:
            packed.write(file, file.name)


def shown(
    name: str,
    service: Service,
    folder: Path,
    model: Path,
    rows: Arrays,
    asked: list[Any],
    plainly: Mapping[str, float],
    known: Mapping[str, Any],
) -> None:
    """Evaluate, and print each metric beside what is known of it."""
    data = folder / "rows.npz"
    np.savez(data, **rows)
    uploaded, dataset = service.upload("models", model), service.upload("datasets", data)
    for found in (uploaded, dataset):
        if found["state"] != "ready":
            raise SystemExit(f"{name}: {found['error']}")
    spec = {"model": uploaded["id"], "datasets": {"evaluation": dataset["id"]}, "metrics": asked}
    job = service.ended(service.submit(kind="evaluate", **spec)["id"], seconds=1800)
    if job["state"] != "succeeded":
        raise SystemExit(f"{name}: {job['error']}")
    print(f"\n{name}: {job['conclusion']}")
    for found in told(job):
        wanted = found["name"]
        low, high = found["ci95"] or (float("nan"),) * 2
        where = {
            key: found["conditions"][key] for key in ("case", "runtime", "rows", "groups") if key in found["conditions"]
        }
        print(f"  {wanted:<16}{found['value']:>12.5g} {found['unit']:<9}[{low:.5g}, {high:.5g}] {where}", end="")
        if wanted in plainly:
            print(f"; plain script {plainly[wanted]:.5g}", end="")
        print(f"; known {known[wanted]}" if wanted in known else "", flush=True)
    for note in job["notes"]:
        print(f"  note: {note}")


def told(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Metrics and median latencies that have a value."""
    for found in job["baseline"]["measurements"]:
        if found["value"] is not None and found["name"] not in ("latency_p90", "latency_p99", "latency_mean"):
            yield found


PARTS: dict[str, Callable[[Service, Path], None]] = {
    "lite0": of_lite0,
    "minilm": of_minilm,
    "smollm2": of_smollm2,
    "magika": of_magika,
    "pitch": of_pitch,
}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    given = parser.parse_args()
    sys.path.append(str(real_models.PACKAGES))
    with tempfile.TemporaryDirectory(prefix="bitpress-baselines-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with running_service(folder / "service") as service:
            for part in given.parts or PARTS:
                PARTS[part](service, folder)


if __name__ == "__main__":
    main()
