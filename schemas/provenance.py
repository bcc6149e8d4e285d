"""What a run says about itself: the model, the text, the software and the settings, as a store's attributes.

Attributes that this version does not know are kept as they are, so that a store written by a newer minor version
survives a read and a write by an older one (docs/store-format.md, "Evolution").
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import StoreError

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "CorpusInfo",
    "ModelInfo",
    "NormInfo",
    "RoutingInfo",
    "RunInfo",
    "SignatureValue",
    "SiteInfo",
    "SoftwareInfo",
    "differences",
    "parse_attributes",
]

FORMAT = "outlier-features-run"
FORMAT_VERSION = "1.1"

SignatureValue = str | int | float | bool | None


class _Record(BaseModel):
    """Unknown attributes are kept; known ones are checked."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class ModelInfo(_Record):
    """The model, as read from its own configuration and shapes; nothing here is typed by hand.

    ``total_parameters`` counts each tensor once (tied ones too); ``active_parameters`` those that one token uses:
    without the experts that it is not routed to, and without an input embedding that is only looked up.
    """

    name: str = Field(description="what the user called it: a preset, a Hub id or a folder's name")
    id: str = Field(description="Hub id, package or folder that the weights came from")
    revision: str | None = Field(default=None, description="Hub commit, or null for a folder")
    weights: str | None = Field(
        default=None,
        description="what identifies the weights: a digest of the Hub's file digests, or of a folder's tensors",
    )
    architecture: str
    model_type: str
    layers: int
    hidden_size: int
    vocabulary_size: int
    max_positions: int | None = None
    total_parameters: int
    active_parameters: int
    experts: int | None = None
    shared_experts: int | None = None
    top_k: int | None = None
    routing: str | None = None
    quantisation: str | None = None
    native_dtype: str
    compute_dtype: str
    stored_dtype: Literal["bfloat16", "float16", "float32"]


class CorpusInfo(_Record):
    """The text and how it became windows of token ids."""

    source: str
    config: str | None = None
    split: str | None = None
    column: str | None = None
    revision: str | None = None
    text_sha256: str | None = Field(default=None, description="of a local file's bytes")
    sequences: int
    length: int
    overlap: str = "0%"
    bos: Literal["auto", "always", "never"] = "auto"
    bos_added: bool = False
    bos_token_id: int | None = None
    end_of_text_token: str | None = None
    end_of_text_token_id: int | None = None
    shuffle_seed: int | None = None
    documents_read: int | None = None
    tokens_read: int | None = None
    token_sha256: str = Field(description="of the (sequence, position) int32 little-endian token ids")
    tokenizer_sha256: str


class SoftwareInfo(_Record):
    """What computed the numbers."""

    outlier_features: str
    python: str
    torch: str
    transformers: str
    zarr: str
    engine: str
    device: str
    device_name: str | None = None
    attention_implementation: str | None = None
    experts_implementation: str | None = None
    threads: int | None = None
    batch_size: int


class NormInfo(_Record):
    """The norm whose output a site is: ``y = z * gain + bias``, with ``z = x / sqrt(mean(x^2) + eps)`` for kind rms
    and ``z = (x - mean) / sqrt(variance + eps)`` for kind layer. Without a kind nothing of a norm is stored."""

    kind: Literal["rms", "layer"] | None = Field(default=None, description="what it divides by; null: no such norm")
    eps: float | None = None
    gain: str | None = Field(default=None, description="its parameter that multiplies; null: none does")
    bias: str | None = Field(default=None, description="its parameter that is added; null: none is")
    one_plus: bool = Field(default=False, description="it multiplies by 1 + w")
    modules: list[str | None] = Field(default_factory=list, description="module per layer, null where there is none")
    reason: str | None = Field(default=None, description="why a layer, or all of them, have none")


class SiteInfo(_Record):
    """One site: which module's input it is, in which layers, or which other site holds the same tensor."""

    alias: str | None = Field(default=None, description="the site whose arrays hold this one's values")
    modules: list[str] = Field(default_factory=list, description="module per layer, e.g. model.layers.0.mlp")
    norm: NormInfo | None = Field(default=None, description="the norm that feeds it; null: not looked for")


class RoutingInfo(_Record):
    """How a mixture of experts was observed, or why it was not."""

    modules: list[str | None] = Field(default_factory=list, description="experts of each layer; null: it has none")
    weights_sum: float | None = Field(default=None, description="of one token's weights; null: it varies")
    absent: str | None = Field(default=None, description="why there are no expert_id and expert_weight")
    peak_absent: str | None = Field(default=None, description="why there is no expert_peak")


class RunInfo(_Record):
    """All attributes of a run store's root group."""

    format: Literal["outlier-features-run"] = "outlier-features-run"
    format_version: str = FORMAT_VERSION
    created: str
    command: list[str] = Field(description="the command that makes or finishes this store, as arguments")
    bits: Literal["bfloat16", "float16", "float32"] = Field(description="encoding of the sites and their peaks")
    retention: str = Field(default="slices", description="what is kept of the slices: slices, floor=M or peaks")
    sites: dict[str, SiteInfo]
    model: ModelInfo
    corpus: CorpusInfo
    software: SoftwareInfo
    routing: RoutingInfo | None = Field(default=None, description="of a mixture of experts")
    signature: dict[str, SignatureValue] = Field(description="all settings that decide the numbers")

    @property
    def stored_sites(self) -> list[str]:
        """Sites with arrays of their own, in order."""
        return [name for name, site in self.sites.items() if site.alias is None]

    def site_array(self, site: str) -> str:
        """Name of the array that holds ``site``: its own, or the one it is an alias of."""
        return self.sites[site].alias or site


def parse_attributes(attributes: dict[str, Any], where: str) -> RunInfo:
    """The run described by a root group's attributes; raises StoreError naming what ``where`` lacks.

    A store of another format, or of a newer major version, is refused; a newer minor version is read.
    """
    if attributes.get("format") != FORMAT:
        raise StoreError(
            f"{where} is not a run store: its attributes have no format {FORMAT!r}. "
            "Make one with: capture --model NAME --store PATH"
        )
    version = str(attributes.get("format_version", ""))
    major, known = version.split(".")[0], FORMAT_VERSION.split(".")[0]
    if not major.isdigit():
        raise StoreError(f"{where} has format version {version!r}, which is not of the form MAJOR.MINOR")
    if int(major) > int(known):
        raise StoreError(
            f"{where} has format version {version}; this outlier-features reads up to {known}.x. "
            "Upgrade it: pip install --upgrade outlier-features"
        )
    try:
        return RunInfo.model_validate(attributes)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()[:5]
        )
        raise StoreError(f"{where} has damaged attributes: {problems}") from None


def differences(
    stored: dict[str, SignatureValue], wanted: dict[str, SignatureValue]
) -> list[tuple[str, SignatureValue, SignatureValue]]:
    """(key, stored, wanted) for every key of two signatures whose values differ; a missing key reads as null."""
    keys = dict.fromkeys([*stored, *wanted])
    return [(key, stored.get(key), wanted.get(key)) for key in keys if stored.get(key) != wanted.get(key)]
