"""Our data sets in the evaluation kits that people use: lmms-eval, VLMEvalKit, lm-eval; none is needed here."""
