"""Words: prompts and their tokens, phrasing, vocabularies, scene graphs, the English parser."""
