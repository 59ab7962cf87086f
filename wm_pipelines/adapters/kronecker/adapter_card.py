"""The lines of a model card that load a Kronecker adapter, the import first.

PEFT 0.21.2 looks methods up in a table, and has no entry points through which a package could be found: where this
package was not imported, it says `KeyError: 'KRONECKER'`.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["CARD", "with_import"]

CARD = "README.md"
_IMPORT = f"import {__package__}"
_USE = f"""
## Use

```python
{_IMPORT}  # without it PEFT says KeyError: 'KRONECKER'
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "<this repository or its folder>")
```

`pip install wm-pipelines`; for a model of diffusers, `load_adapter(pipe.unet, folder)` of the same package. Exact LoRA
files, which need neither, are written by `save_lora`.
"""
_HEAD = re.compile(r"---\n.*?\n---\n", re.DOTALL)


def with_import(folder: Path) -> str:
    """The folder's card, a new one where there is none, with those lines behind its head if it lacks the import."""
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else "---\nlibrary_name: peft\n---\n"
    if _IMPORT in text:
        return text
    head = _HEAD.match(text)
    end = head.end() if head else 0
    return text[:end] + _USE + text[end:]
