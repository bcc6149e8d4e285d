"""What a run writes down about itself, and the signature that a resumed run must repeat."""

from __future__ import annotations

import datetime
import hashlib
import platform
from collections.abc import Sequence
from importlib import metadata

import torch
import transformers
import zarr

from capture.device import device_name
from capture.plan import CapturePlan
from capture.snapshot import Snapshot
from schemas.provenance import CorpusInfo, ModelInfo, RoutingInfo, RunInfo, SignatureValue, SiteInfo, SoftwareInfo

__all__ = ["describe_run"]

NOT_SIGNED = {"documents_read", "tokens_read", "end_of_text_token", "text_sha256"}
"""Corpus attributes that decide no number beyond what the token ids' digest already covers."""


def describe_run(
    snapshot: Snapshot,
    plan: CapturePlan,
    corpus: CorpusInfo,
    device: torch.device,
    command: Sequence[str],
) -> RunInfo:
    """The attributes of the store that ``plan`` makes from the checkpoint ``snapshot``, signature included."""
    facts, source = plan.facts, snapshot.source
    dtype = plan.encoding.name
    model = ModelInfo(
        name=source.preset or source.id,
        id=source.id,
        revision=snapshot.revision,
        weights=snapshot.digest(),
        architecture=facts.architecture,
        model_type=facts.model_type,
        layers=facts.layers,
        hidden_size=facts.hidden_size,
        vocabulary_size=facts.vocabulary_size,
        max_positions=facts.max_positions,
        total_parameters=facts.total_parameters,
        active_parameters=facts.active_parameters,
        experts=facts.experts,
        shared_experts=facts.shared_experts,
        top_k=facts.top_k,
        routing=facts.routing,
        quantisation=facts.quantisation,
        native_dtype=facts.native_dtype,
        compute_dtype=dtype,
        stored_dtype=dtype,  # type: ignore[arg-type]
    )
    software = SoftwareInfo(
        outlier_features=metadata.version("outlier-features"),
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        zarr=zarr.__version__,
        engine=plan.engine,
        device=device.type,
        device_name=device_name(device),
        attention_implementation=facts.attention_implementation,
        experts_implementation=facts.experts_implementation,
        threads=torch.get_num_threads(),
        batch_size=plan.batch_size,
    )
    routing = None
    if plan.routing is not None:
        found = plan.routing
        routing = RoutingInfo(
            modules=list(found.modules),
            weights_sum=found.weights_sum,
            absent=found.absent,
            peak_absent=found.peak_absent,
        )
    config = hashlib.sha256((snapshot.folder / "config.json").read_bytes()).hexdigest()
    signature: dict[str, SignatureValue] = {
        "model.id": model.id,
        "model.revision": model.revision,
        "model.weights": model.weights,
        "model.config": config,
        "model.dtype": dtype,
        "sites": ",".join(site.name for site in plan.sites),
        "retention": str(plan.retention),
        **{f"text.{key}": value for key, value in corpus.model_dump().items() if key not in NOT_SIGNED},
        "batch_size": plan.batch_size,
        "device": software.device_name or device.type,
        "attention": facts.attention_implementation,
        "experts": facts.experts_implementation,
        "torch": software.torch,
        "transformers": software.transformers,
    }
    return RunInfo(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=list(command),
        bits=dtype,  # type: ignore[arg-type]
        retention=str(plan.retention),
        sites={
            site.name: SiteInfo(alias=site.alias, modules=list(site.modules), norm=site.norm) for site in plan.sites
        },
        model=model,
        corpus=corpus,
        software=software,
        routing=routing,
        signature=signature,
    )
