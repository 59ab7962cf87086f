"""Our data sets in the evaluation kits that people use: lmms-eval, VLMEvalKit and lm-eval. None of them is needed here."""
