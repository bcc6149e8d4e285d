"""Facts of a model that does not exist, for plans that no model is needed for."""

from __future__ import annotations

from capture.model_facts import ModelFacts

__all__ = ["FACTS"]

FACTS = ModelFacts(
    architecture="TinyForCausalLM",
    model_type="tiny",
    layers=2,
    hidden_size=8,
    vocabulary_size=32,
    max_positions=64,
    total_parameters=30_532_122_624,
    active_parameters=3_041_860_608,
    experts=128,
    shared_experts=1,
    top_k=8,
    routing="softmax, then top-k",
    quantisation=None,
    native_dtype="bfloat16",
    parameter_bytes=1000,
    largest_layer_bytes=100,
    outside_layers_bytes=200,
    attention_implementation="sdpa",
    experts_implementation="grouped_mm",
    attention_heads=2,
    checkpoint_bytes=1000,
    converted_bytes=0,
    widest_features=24,
    expert_features=12,
)
