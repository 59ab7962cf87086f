"""VLM4D (arXiv 2508.02095, ICCV 2025): whether video-language models read motion."""
