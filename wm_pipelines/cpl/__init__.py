"""CPL: few-shot prompts for a frozen CLIP, learned with counterfactual negatives (arXiv 2210.10362)."""
