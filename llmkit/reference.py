"""The formulas in a few lines of float64 PyTorch: what tests and documentation compare with.

Written after the papers and for reading: whole sequences, without cache, padding or dropout. Weights are those that
transformers saves, read as float64.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

State = Mapping[str, torch.Tensor]


def gpt2_logits(state: State, config: Any, ids: torch.Tensor) -> torch.Tensor:
    """Compute the logits of a GPT-2.

    Each block normalises, attends and adds, then normalises, transforms and adds; the head is the token embedding.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3; the tied head:
    Press and Wolf 2017 (arXiv 1608.05859), section 2.

    Args:
        state: The state dict of a GPT2LMHeadModel, or its model.safetensors. Matrices have the shape (inputs, outputs).
        config: Its n_layer, n_head and layer_norm_epsilon.
        ids: Shape: (batch, length).

    Returns:
        Shape: (batch, length, vocabulary).
    """
    weights = _under(state, "transformer.")
    epsilon = config.layer_norm_epsilon
    x = weights["wte.weight"][ids] + weights["wpe.weight"][: ids.shape[1]]
    for layer in range(config.n_layer):
        block = _under(weights, f"h.{layer}.")
        y = layer_norm(x, block["ln_1.weight"], block["ln_1.bias"], epsilon)
        y = y @ block["attn.c_attn.weight"] + block["attn.c_attn.bias"]
        query, key, value = (split_heads(part, config.n_head) for part in y.chunk(3, dim=-1))
        y = join_heads(attention(query, key, value))
        x = x + y @ block["attn.c_proj.weight"] + block["attn.c_proj.bias"]
        y = layer_norm(x, block["ln_2.weight"], block["ln_2.bias"], epsilon)
        y = gelu_tanh(y @ block["mlp.c_fc.weight"] + block["mlp.c_fc.bias"])
        x = x + y @ block["mlp.c_proj.weight"] + block["mlp.c_proj.bias"]
    x = layer_norm(x, weights["ln_f.weight"], weights["ln_f.bias"], epsilon)
    return x @ weights["wte.weight"].T


def llama_logits(state: State, config: Any, ids: torch.Tensor) -> torch.Tensor:
    """Compute the logits of a Llama with plain rotary positions (rope_type "default") and no biases.

    Source: Touvron et al. 2023 (arXiv 2302.13971), section 2.2; grouped queries: Ainslie et al. 2023
    (arXiv 2305.13245), section 2.2; the gated MLP: Shazeer 2020 (arXiv 2002.05202), equation 6 (SwiGLU).

    Args:
        state: The state dict of a LlamaForCausalLM, or its model.safetensors. Matrices have the shape (outputs,
            inputs).
        config: Its num_hidden_layers, num_attention_heads, num_key_value_heads, rms_norm_eps and rope_parameters.
        ids: Shape: (batch, length).

    Returns:
        Shape: (batch, length, vocabulary).
    """
    weights = _under(state, "model.")
    epsilon, theta = config.rms_norm_eps, config.rope_parameters["rope_theta"]
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    x = weights["embed_tokens.weight"][ids]
    for layer in range(config.num_hidden_layers):
        block = _under(weights, f"layers.{layer}.")
        y = rms_norm(x, block["input_layernorm.weight"], epsilon)
        query = rotary(split_heads(y @ block["self_attn.q_proj.weight"].T, heads), theta)
        key = rotary(split_heads(y @ block["self_attn.k_proj.weight"].T, groups), theta)
        value = split_heads(y @ block["self_attn.v_proj.weight"].T, groups)
        x = x + join_heads(attention(query, key, value)) @ block["self_attn.o_proj.weight"].T
        y = rms_norm(x, block["post_attention_layernorm.weight"], epsilon)
        gate = y @ block["mlp.gate_proj.weight"].T
        y = gate * torch.sigmoid(gate) * (y @ block["mlp.up_proj.weight"].T)
        x = x + y @ block["mlp.down_proj.weight"].T
    x = rms_norm(x, weights["norm.weight"], epsilon)
    head = state.get("lm_head.weight", state["model.embed_tokens.weight"])  # one tensor where they are tied
    return x @ head.double().T


def bert_logits(state: State, config: Any, ids: torch.Tensor) -> torch.Tensor:
    """Compute the logits of a BERT for masked tokens, of one segment.

    Each block attends to both sides and adds, then normalises, transforms, adds and normalises; the head transforms
    once more and goes by the token embedding.

    Source: Devlin et al. 2019 (arXiv 1810.04805), sections 3 and 3.1, after Vaswani et al. 2017, section 3.1.

    Args:
        state: The state dict of a BertForMaskedLM, or its model.safetensors. Matrices have the shape (outputs, inputs).
        config: Its num_hidden_layers, num_attention_heads and layer_norm_eps.
        ids: Shape: (batch, length).

    Returns:
        Shape: (batch, length, vocabulary).
    """
    weights, epsilon = _under(state, "bert."), config.layer_norm_eps
    tables = (weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type"))
    words, places, kinds = tables
    x = _norm(words[ids] + places[: ids.shape[1]] + kinds[0], _under(weights, "embeddings.LayerNorm."), epsilon)
    for layer in range(config.num_hidden_layers):
        block = _under(weights, f"encoder.layer.{layer}.")
        query, key, value = (
            split_heads(_linear(x, _under(block, f"attention.self.{name}.")), config.num_attention_heads)
            for name in ("query", "key", "value")
        )
        y = _linear(join_heads(attention(query, key, value, causal=False)), _under(block, "attention.output.dense."))
        x = _norm(x + y, _under(block, "attention.output.LayerNorm."), epsilon)
        y = _linear(gelu(_linear(x, _under(block, "intermediate.dense."))), _under(block, "output.dense."))
        x = _norm(x + y, _under(block, "output.LayerNorm."), epsilon)
    head = _under(state, "cls.predictions.")
    x = _norm(gelu(_linear(x, _under(head, "transform.dense."))), _under(head, "transform.LayerNorm."), epsilon)
    return x @ words.T + head["bias"]


def bart_logits(state: State, config: Any, ids: torch.Tensor, decoder_ids: torch.Tensor) -> torch.Tensor:
    """Compute the logits of a BART: an encoder-decoder with learned positions, normalised after each sum.

    Source: Lewis et al. 2020 (arXiv 1910.13461), section 2.1, after Vaswani et al. 2017, section 3.1.

    Args:
        state: The state dict of a BartForConditionalGeneration. Matrices have the shape (outputs, inputs).
        config: Its layers and attention heads of either side.
        ids: Those of the source. Shape: (batch, length).
        decoder_ids: Those that the decoder is fed. Shape: (batch, target length).

    Returns:
        Shape: (batch, target length, vocabulary).
    """
    words = state["model.shared.weight"].double()
    encoder, decoder = _under(state, "model.encoder."), _under(state, "model.decoder.")
    memory = _bart_side(encoder, words[ids], config.encoder_layers, config.encoder_attention_heads)
    heads = config.decoder_attention_heads
    x = _bart_side(decoder, words[decoder_ids], config.decoder_layers, heads, memory=memory)
    return x @ words.T + state["final_logits_bias"].double()


def _bart_side(
    weights: State, x: torch.Tensor, layers: int, heads: int, *, memory: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute the encoder of a BART, or its decoder over what the encoder gave."""
    offset = 2  # its table of positions begins with two rows that nothing uses
    x = x + weights["embed_positions.weight"][offset : offset + x.shape[1]]
    x = _norm(x, _under(weights, "layernorm_embedding."), 1e-5)

    def attend(block: State, name: str, x: torch.Tensor, seen: torch.Tensor, *, causal: bool) -> torch.Tensor:
        parts = zip("qkv", (x, seen, seen), strict=True)
        query, key, value = (split_heads(_linear(y, _under(block, f"{name}.{k}_proj.")), heads) for k, y in parts)
        found = join_heads(attention(query, key, value, causal=causal))
        y = _linear(found, _under(block, f"{name}.out_proj."))
        return _norm(x + y, _under(block, f"{name}_layer_norm."), 1e-5)

    for layer in range(layers):
        block = _under(weights, f"layers.{layer}.")
        x = attend(block, "self_attn", x, x, causal=memory is not None)
        if memory is not None:
            x = attend(block, "encoder_attn", x, memory, causal=False)
        y = _linear(gelu(_linear(x, _under(block, "fc1."))), _under(block, "fc2."))
        x = _norm(x + y, _under(block, "final_layer_norm."), 1e-5)
    return x


def warped_distribution(
    scores: torch.Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> torch.Tensor:
    """Compute the distribution that sampling draws from: temperature, then top-k, then top-p.

    Top-k keeps what scores no less than the k-th highest; top-p keeps the fewest tokens, from the most probable down,
    whose probabilities reach p; what is kept is scaled to sum to 1.

    Source: Holtzman et al. 2020 (arXiv 1904.09751), section 3.1, equations 2 and 3 (top-p), section 3.2 (top-k),
    section 3.3, equation 4 (temperature); the order: transformers 5.23, GenerationMixin._get_logits_processor.

    Args:
        scores: Shape: (..., vocabulary).
        temperature: Above 0; towards 0 the most probable token takes all.
        top_k: A number of tokens; None keeps all.
        top_p: A share of probability, above 0 and at most 1; None keeps all.

    Returns:
        Shape: (..., vocabulary).
    """
    scores = scores.double() / temperature
    if top_k is not None:
        least = scores.topk(min(top_k, scores.shape[-1]), dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < least, -math.inf)
    probabilities = scores.softmax(dim=-1)
    if top_p is not None:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        kept = torch.where(before < top_p, ordered, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, kept)
    return probabilities / probabilities.sum(dim=-1, keepdim=True)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Normalise each vector to mean 0 and variance 1, then scale and shift it.

    Source: Ba et al. 2016 (arXiv 1607.06450), equation 4, with epsilon added to the variance.

    Shape of x: (..., size); of weight and bias: (size,). Returns the shape of x.
    """
    centred = x - x.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    return centred / torch.sqrt(variance + epsilon) * weight + bias


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Divide each vector by its root mean square, then scale it.

    Source: Zhang and Sennrich 2019 (arXiv 1910.07467), equation 4, with epsilon added to the mean square.

    Shape of x: (..., size); of weight: (size,). Returns the shape of x.
    """
    return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + epsilon) * weight


def gelu(x: torch.Tensor) -> torch.Tensor:
    """Apply the Gaussian error linear unit. Shape of x: any; returned as it is.

    Source: Hendrycks and Gimpel 2016 (arXiv 1606.08415), section 2.
    """
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """Apply the tanh form of the Gaussian error linear unit. Shape of x: any; returned as it is.

    Source: Hendrycks and Gimpel 2016 (arXiv 1606.08415), section 2.
    """
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def rotary(x: torch.Tensor, theta: float) -> torch.Tensor:
    """Turn the pairs (i, i + size/2) of each vector by position * theta^(-2i/size), in radians.

    Source: Su et al. 2021 (arXiv 2104.09864), equation 34, with the pairs of transformers (rotate_half in its Llama)
    instead of neighbours.

    Shape of x: (batch, heads, length, head size). Returns the shape of x.
    """
    length, size = x.shape[-2:]
    speeds = theta ** (-torch.arange(0, size, 2, dtype=torch.float64, device=x.device) / size)
    angles = torch.arange(length, dtype=torch.float64, device=x.device)[:, None] * speeds
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, causal: bool = True) -> torch.Tensor:
    """Attend from each position to itself and what stands before it; a group of query heads shares a key head.

    Where it is not causal, to all positions.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), equation 1, with the mask of section 3.2.3.

    Shape of query: (batch, heads, length, head size); of key and value: (batch, groups, length, head size). Returns the
    shape of query.
    """
    shared_by = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(shared_by, dim=1) for states in (key, value))
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if not causal:
        return scores.softmax(dim=-1) @ value
    future = torch.ones_like(scores, dtype=torch.bool).triu(diagonal=1)
    return scores.masked_fill(future, -math.inf).softmax(dim=-1) @ value


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Split vectors into heads. Shape: (batch, length, size) to (batch, heads, length, size / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: torch.Tensor) -> torch.Tensor:
    """Join heads again. Shape: (batch, heads, length, head size) to (batch, length, heads * head size)."""
    return x.transpose(1, 2).flatten(2)


def _linear(x: torch.Tensor, layer: State) -> torch.Tensor:
    return x @ layer["weight"].T + layer["bias"]


def _norm(x: torch.Tensor, layer: State, epsilon: float) -> torch.Tensor:
    return layer_norm(x, layer["weight"], layer["bias"], epsilon)


def _under(state: State, prefix: str) -> dict[str, torch.Tensor]:
    """Select the tensors under a prefix, which leaves their names, as float64."""
    return {name.removeprefix(prefix): value.double() for name, value in state.items() if name.startswith(prefix)}
