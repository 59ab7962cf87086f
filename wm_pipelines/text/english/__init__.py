"""How the rules of `text.parser` read a caption: tokens, tags, chunks, clauses, attachment, and the word lists."""
