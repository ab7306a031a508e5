"""Pages of metrics that are no engine's: what they are, so that a target that shows one is told by its name."""

from __future__ import annotations

_SCRAPE_AS_EXPORTER = "; it belongs under exporters, not engines"
_ROUTER = "; configure the engines behind it, each by its own page"

# Beginnings of metric names, what shows them, and what to do. The more telling ones first.
FOREIGN: tuple[tuple[str, str, str], ...] = (
    ("litellm_", "LiteLLM", "; it belongs under gateways, not engines"),
    ("gen_ai_client_", "a gateway that counts by OpenTelemetry", "; it belongs under gateways, not engines"),
    ("gen_ai_server_", "a server that counts by OpenTelemetry", "; its engine is not known here"),
    ("smg_", "sgl-model-gateway", _ROUTER),
    ("sgl_router_", "the SGLang router", _ROUTER),
    ("vllm_router_", "vllm-router", _ROUTER),
    ("inference_extension_", "the Gateway API inference extension", _ROUTER),
    ("inference_objective_", "the Gateway API inference extension", _ROUTER),
    ("inference_model_", "the Gateway API inference extension", _ROUTER),
    ("envoy_", "Envoy", _ROUTER),
    ("nv_inference_", "Triton with a back end that counts no tokens", "; switch on the back end's own metrics"),
    ("gpustack:", "a GPUStack worker or server", "; configure the engines that it runs, each by its own page"),
    ("bentoml_", "BentoML", "; it counts requests, not tokens: configure the engine inside, by its own page"),
    ("request_predict_seconds", "KServe without an engine's metrics", "; it counts no tokens"),
    ("DCGM_FI_", "dcgm-exporter", _SCRAPE_AS_EXPORTER),
    ("dcgm_", "dcgm-exporter", _SCRAPE_AS_EXPORTER),
    ("nvidia_smi_", "nvidia_gpu_exporter", _SCRAPE_AS_EXPORTER),
    ("gpu_package_power", "the AMD device metrics exporter", _SCRAPE_AS_EXPORTER),
    ("gpu_energy_consumed", "the AMD device metrics exporter", _SCRAPE_AS_EXPORTER),
    ("amd_gpu_", "amd_smi_exporter", _SCRAPE_AS_EXPORTER),
    ("habanalabs_", "the Gaudi exporter", _SCRAPE_AS_EXPORTER),
    ("xpum_", "Intel XPU manager", _SCRAPE_AS_EXPORTER),
    ("npu_chip_info_", "Ascend npu-exporter", _SCRAPE_AS_EXPORTER),
    ("kepler_", "Kepler", _SCRAPE_AS_EXPORTER),
    ("ipmi_", "ipmi_exporter", _SCRAPE_AS_EXPORTER),
    ("redfish_", "redfish_exporter", _SCRAPE_AS_EXPORTER),
    ("node_cpu_", "node_exporter", _SCRAPE_AS_EXPORTER),
    ("node_exporter_", "node_exporter", _SCRAPE_AS_EXPORTER),
    ("container_cpu_", "cAdvisor", ""),
    ("kube_pod_", "kube-state-metrics", ""),
    ("wattmill_", "Wattmill itself", ""),
    ("ray_", "a Ray node whose engine logs no metrics", "; set log_engine_metrics of Ray Serve LLM"),
    ("prometheus_tsdb_", "Prometheus", "; configure the engines themselves"),
    ("http_server_", "an HTTP server without an engine's metrics", ""),
    ("http_requests_", "an HTTP server without an engine's metrics", ""),
)
