"""The files by which vLLM runs a build: ``glmc compile --engine vllm``."""
